"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a temporary sibling that takes the file's place on leaving, or vanishes with an error."""
    target = Path(os.path.abspath(path))  # noqa: PTH100  links stay
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield work
        work.replace(target)
    finally:
        work.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to the disk, into a temporary sibling of always the same name, then rename it.

    For work that is killed and done again: what a killed process has left is overwritten.

    :param path: where to; its folder is made.
    :param lines: without their ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.tmp")
    with work.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    work.replace(path)
