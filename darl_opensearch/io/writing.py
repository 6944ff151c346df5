"""Files and folders that are there whole or not at all: a temporary sibling, then a rename.

The sibling's name is random, so that writers into one folder never meet and nobody can put a link in its place. In a
work folder that one process holds, ``fixed_name`` makes it always the same: what a killed process left is overwritten.
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
    """Name the temporary sibling that ``fixed_name`` stands for."""
    return path.with_name(f".{path.name}.tmp")


def _place(path: str | os.PathLike[str], fixed_name: bool) -> tuple[Path, Path]:
    target = Path(os.path.abspath(path))  # noqa: PTH100  "." has no name to put a sibling beside; links stay
    target.parent.mkdir(parents=True, exist_ok=True)
    return target, sibling(target) if fixed_name else target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def new_file(path: Path, *, fixed_name: bool = False) -> Iterator[Path]:
    """Yield a path to write to; on leaving, it is synced to disk and renamed, and with an error it is gone."""
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
    """Write a file by :func:`new_file`, text as UTF-8."""
    with new_file(path, fixed_name=fixed_name) as work:
        work.write_bytes(content.encode() if isinstance(content, str) else content)


def write_lines(path: Path, lines: Iterable[str], *, fixed_name: bool = False) -> None:
    """Write lines, which come without their ends, by :func:`new_file`."""
    with new_file(path, fixed_name=fixed_name) as work, work.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, fixed_name: bool = False) -> None:
    """Write JSONL, one row a line, by :func:`new_file`; a float that is no number is a ValueError."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_lines(path, lines, fixed_name=fixed_name)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], *, replace: bool = False, fixed_name: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; on leaving it takes its place, with an error it is gone.

    :param replace: put it in place of an older one; else see :func:`check_empty`.
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
    """Rename a finished folder into the place of an older one, which comes back if that fails."""
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
    """Refuse a path where something is: nothing of a team's is ever replaced.

    :raises UsageError: when it is a file, a link, or a folder with something in it.
    """
    if folder.is_symlink():
        raise UsageError("it is a symbolic link", where=str(folder), todo="use the folder that it points to")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("it already exists", where=str(folder), todo="choose another with --out, or remove it first")
