"""The working folder of a pool: finished shards, and what they were made of.

A shard is written to a temporary sibling, synced and renamed: one that is there is whole. So a run that was
killed, however it was, goes on behind its last shard; and one whose input has changed since is refused.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError
from darl_opensearch.io.lock import hold_lock
from darl_opensearch.io.writing import sibling, write_file

FORMAT = 1
MANIFEST, LOCK, CATALOGUE = "pool.json", "lock", "items.sqlite"
# What each value of the manifest is called in an error.
_NAMES = {
    "pairs": "pairs file",
    "items": "items file",
    "bundle": "bundle",
    "scores": "format of the scores",
    "features": "choice of features",
    "shard_pairs": "shard size",
    "int8": "choice of graph (--int8)",
    "provider": "provider",
}


@dataclass(frozen=True)
class ShardFolder:
    """An open working folder, held against other processes.

    :param parts: what each shard consists of, with the ending of its files.
    """

    folder: Path
    parts: Mapping[str, str]

    @classmethod
    @contextlib.contextmanager
    def claim(
        cls, folder: Path, made_of: Mapping[str, Any], parts: Mapping[str, str], *, fresh: bool
    ) -> Iterator[ShardFolder]:
        """Take the folder, or refuse it.

        :param folder: the folder; made when it is not there.
        :param made_of: what decides the results; the folder must hold the same.
        :param parts: what each shard consists of, with the ending of its files.
        :yields: the folder, held.
        :raises InputError: when it holds another pool, or something that is no pool.
        :raises DarlError: when another process works in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _read(folder)  # before anything is left in a folder that is not ours
        with hold_lock(folder / LOCK, "another process is working on this pool", where=folder):
            found = _read(folder)
            unchecked = found is not None and "count" not in found and found["made_of"] != made_of
            if found is not None and (fresh or unchecked):  # unchecked: nothing was computed that could be lost
                _clear(folder)
                found = None
            if found is None:
                _write(folder, {"format": FORMAT, "made_of": dict(made_of)})
            else:
                _compare(folder, found, made_of)
            yield cls(folder, dict(parts))

    @property
    def catalogue(self) -> Path:
        """Where the index of the items is, or will be."""
        return self.folder / CATALOGUE

    def pairs(self) -> int | None:
        """Count the pool's pairs.

        :return: how many, or None before the pool was checked.
        """
        count = (_read(self.folder) or {}).get("count")
        return int(count) if count is not None else None

    def checked(self, pairs: int) -> None:
        """Note that the whole pool was read, and nothing is wrong with it."""
        _write(self.folder, (_read(self.folder) or {}) | {"count": pairs})

    def store(self, shard: int, files: Mapping[str, bytes]) -> None:
        """Keep a finished shard."""
        for part in self.parts:
            write_file(self.path(part, shard), files[part], fixed_name=True)

    def path(self, part: str, shard: int) -> Path:
        """Name the file of a shard."""
        return self.folder / f"{part}-{shard:08d}{self.parts[part]}"

    def finished(self, shards: int) -> set[int]:
        """Find the shards that need not be computed.

        :return: numbers of those of which every part is there.
        """
        return {shard for shard in range(shards) if all(self.path(part, shard).is_file() for part in self.parts)}

    def remove(self) -> None:
        """Delete the folder: its results are elsewhere."""
        # Renamed first: a half-deleted folder must not be taken for an unfinished pool.
        gone = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.old")
        self.folder.rename(gone)
        for old in gone.parent.glob(
            f".{glob.escape(self.folder.name)}.*.old"
        ):  # also what a kill left of an earlier one
            shutil.rmtree(old, ignore_errors=True)


def _read(folder: Path) -> dict[str, Any] | None:
    """What the folder says it is; None for one that was just made."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        if any(path.name not in (LOCK, sibling(folder / MANIFEST).name) for path in folder.iterdir()):
            raise InputError(
                "the folder is not an unfinished pool", where=str(folder), todo="move it, or choose another file"
            ) from None
        return None
    try:
        found: dict[str, Any] = json.loads(text)
        known = found["format"] == FORMAT
        if known:
            dict(found["made_of"])
    except (ValueError, KeyError, TypeError) as err:
        raise InputError("damaged", where=str(folder / MANIFEST), todo="remove the folder to start over") from err
    if not known:
        raise InputError(
            f"the unfinished pool has format {found['format']}, but this version reads format {FORMAT}",
            where=str(folder),
            todo="finish it with the version that started it, or remove the folder to start over",
        )
    return found


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_file(folder / MANIFEST, json.dumps(manifest), fixed_name=True)


def _compare(folder: Path, found: Mapping[str, Any], made_of: Mapping[str, Any]) -> None:
    before = found["made_of"]
    if changed := [name for name in made_of if made_of[name] != before.get(name)]:
        raise InputError(
            f"the unfinished pool here has another {' and another '.join(_NAMES[name] for name in changed)}",
            where=str(folder),
            todo="repeat the original command to resume, or pass --fresh to start over",
        )


def _clear(folder: Path) -> None:
    """Delete the shards. The manifest stays until it is replaced: a kill in between leaves a pool, not a riddle."""
    for path in folder.iterdir():
        if path.name not in (LOCK, MANIFEST):
            path.unlink()
