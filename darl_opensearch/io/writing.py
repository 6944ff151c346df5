"""Writing files and folders completely or not at all: to a temporary sibling, then a rename.

The sibling's name is random, so that writers to a folder do not collide and no other user can put a link in its place.
In a work folder that one process holds, ``fixed_name`` reuses one name and overwrites what a killed process left.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError


def sibling(path: Path) -> Path:
    """Name the temporary sibling for ``fixed_name``."""
    return path.with_name(f".{path.name}.tmp")


def _place(path: str | os.PathLike[str], fixed_name: bool) -> tuple[Path, Path]:
    target = Path(os.path.abspath(path))  # noqa: PTH100  "." has no name to put a sibling beside; links stay
    target.parent.mkdir(parents=True, exist_ok=True)
    return target, sibling(target) if fixed_name else target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def new_file(path: Path, *, fixed_name: bool = False) -> Iterator[Path]:
    """Yield a path to write to; on exit the file is synced and renamed, after an error deleted."""
    target, work = _place(path, fixed_name)
    work.unlink(missing_ok=True)
    try:
        yield work
        handle = os.open(work, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # the folder may be another user's
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        work.replace(target)
    finally:
        work.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes, *, fixed_name: bool = False) -> None:
    """Write a file with :func:`new_file`, text as UTF-8."""
    with new_file(path, fixed_name=fixed_name) as work:
        work.write_bytes(content.encode() if isinstance(content, str) else content)


def write_lines(path: Path, lines: Iterable[str], *, fixed_name: bool = False) -> None:
    """Write lines, given without line breaks, with :func:`new_file`."""
    with new_file(path, fixed_name=fixed_name) as work, work.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, fixed_name: bool = False) -> None:
    """Write JSONL with :func:`new_file`; NaN and infinity raise ValueError."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_lines(path, lines, fixed_name=fixed_name)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], *, replace: bool = False, fixed_name: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; on exit it is renamed to its place, after an error deleted.

    :param replace: replace an older folder; otherwise see :func:`check_empty`.
    """
    if not replace:
        check_empty(Path(path))
    target, work = _place(path, fixed_name)
    if fixed_name:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        if replace:
            replace_folder(work, target)
        else:
            if target.is_dir():
                target.rmdir()  # fails if something was put there meanwhile
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename a finished folder over an older one, which is restored if that fails."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    try:
        source.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Refuse a path that is not free, so that no user's files are replaced.

    :raises UsageError: if it is a file, a link, or a folder that is not empty.
    """
    if folder.is_symlink():
        raise UsageError("it is a symbolic link", where=str(folder), todo="use the folder that it points to")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("it already exists", where=str(folder), todo="choose another with --out, or remove it first")
