"""A lock between processes of one machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from darl_opensearch.errors import DarlError

POLL_S = 0.1


@contextlib.contextmanager
def hold_lock(
    path: Path,
    busy: str,
    *,
    where: Path | None = None,
    todo: str = "wait for it, or stop it",
    wait_s: float = 0.0,
    waiting: Callable[[str], object] = lambda holder: None,
) -> Iterator[None]:
    """Hold a lock file. The kernel releases it when the process ends, in whatever way.

    :param path: the lock file; it is never deleted, so that all waiters lock the same file.
    :param busy: error message if another process holds it; the holder is appended.
    :param where: path for the error; None: the lock file.
    :param waiting: called once, with the holder, when the wait begins.
    :raises DarlError: if another process still holds it after ``wait_s``.
    """
    with path.open("a+", encoding="utf-8") as file:
        deadline, reported = time.monotonic() + wait_s, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "an unknown process"
                if time.monotonic() >= deadline:
                    raise DarlError(f"{busy} ({holder})", where=str(where or path), todo=todo) from None
            if not reported:
                waiting(holder)
                reported = True
            time.sleep(POLL_S)
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
