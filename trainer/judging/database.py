"""The use of an SQLite file that several threads share, with one error for all that can go wrong with it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from darl_opensearch.errors import DarlError


@contextlib.contextmanager
def using(lock: threading.Lock, path: Path, what: str, *, todo: str) -> Iterator[None]:
    """Have the file for oneself.

    :param what: what it is called in an error.
    :raises DarlError: when the disk is full, or the file damaged or held by another.
    """
    with lock:
        try:
            yield
        except sqlite3.Error as err:
            raise DarlError(f"{what} cannot be used ({err})", where=str(path), todo=todo) from err
