"""Folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, UsageError


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something: nothing of a team's is ever replaced.

    :param folder: where something is to be written.
    :raises UsageError: when it is a file, a link, or a folder with something in it.
    """
    if folder.is_symlink():
        raise UsageError("it is a link", where=str(folder), todo="name the folder that it leads to")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("it is there already", where=str(folder), todo="name another with --out, or remove it first")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a temporary sibling that becomes the folder on leaving, or vanishes with an error.

    :param folder: the folder to make; see :func:`check_free`.
    """
    target = Path(os.path.abspath(folder))  # noqa: PTH100  "." has no name to put a sibling beside; links stay
    check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name that nobody can guess, and never one that is there: in a shared folder it could be somebody's link.
    work = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    work.mkdir()
    try:
        yield work
        if target.is_dir():
            target.rmdir()  # empty, or it would not be free
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def json_line(row: Mapping[str, Any], *, where: str) -> str:
    """Write a line that was read once more.

    :param where: file and line to name in an error.
    :return: JSON, without a line break.
    :raises InputError: for a number beyond a float, such as 1e999, which JSON reads as infinity and cannot write.
    """
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError as err:
        raise InputError("holds a number that no float can hold", where=where, todo="correct the line") from err
