"""The working folder of a pool: finished shards, and the inputs they were made from.

A shard is written to a temporary sibling, synced and renamed, so an existing one is complete. A killed run resumes
after its last shard; if its inputs have changed, it is refused.
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
# Names of the manifest's values in error messages.
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
    """An open working folder, locked against other processes.

    :param parts: file suffixes by part of a shard.
    """

    folder: Path
    parts: Mapping[str, str]

    @classmethod
    @contextlib.contextmanager
    def claim(
        cls, folder: Path, made_of: Mapping[str, Any], parts: Mapping[str, str], *, fresh: bool
    ) -> Iterator[ShardFolder]:
        """Lock the folder, created if missing, and check that it holds the same pool.

        :param made_of: everything that decides the results, compared with the folder's manifest.
        :param parts: file suffixes by part of a shard.
        :raises InputError: if it holds another pool, or something else.
        :raises DarlError: if another process is working in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _read(folder)  # raises before a lock file is left in a folder that is not ours
        with hold_lock(folder / LOCK, "another process is working on this pool", where=folder):
            manifest = _read(folder)
            unchecked = manifest is not None and "count" not in manifest and manifest["made_of"] != made_of
            if manifest is not None and (fresh or unchecked):  # unchecked: nothing was computed yet
                _clear(folder)
                manifest = None
            if manifest is None:
                _write(folder, {"format": FORMAT, "made_of": dict(made_of)})
            else:
                _compare(folder, manifest, made_of)
            yield cls(folder, dict(parts))

    @property
    def catalogue(self) -> Path:
        """Path of the item index."""
        return self.folder / CATALOGUE

    def pairs(self) -> int | None:
        """Return the number of pairs in the pool; None before it was checked."""
        count = (_read(self.folder) or {}).get("count")
        return int(count) if count is not None else None

    def checked(self, pairs: int) -> None:
        """Record that the whole pool was read and is valid."""
        _write(self.folder, (_read(self.folder) or {}) | {"count": pairs})

    def store(self, shard: int, files: Mapping[str, bytes]) -> None:
        """Write a finished shard."""
        for part in self.parts:
            write_file(self.path(part, shard), files[part], fixed_name=True)

    def path(self, part: str, shard: int) -> Path:
        """Name a shard's file."""
        return self.folder / f"{part}-{shard:08d}{self.parts[part]}"

    def finished(self, shards: int) -> set[int]:
        """Return the numbers of the shards that have all their parts."""
        return {shard for shard in range(shards) if all(self.path(part, shard).is_file() for part in self.parts)}

    def remove(self) -> None:
        """Delete the folder once its results are stored elsewhere."""
        # Renamed first: a half-deleted folder must not be taken for an unfinished pool.
        self.folder.rename(self.folder.with_name(f".{self.folder.name}.{os.getpid()}.old"))
        for old in self.folder.parent.glob(f".{glob.escape(self.folder.name)}.*.old"):  # also those of killed runs
            shutil.rmtree(old, ignore_errors=True)


def _read(folder: Path) -> dict[str, Any] | None:
    """Read the folder's manifest; None for a new folder."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        if any(path.name not in (LOCK, sibling(folder / MANIFEST).name) for path in folder.iterdir()):
            raise InputError(
                "the folder is not an unfinished pool", where=str(folder), todo="move it, or choose another file"
            ) from None
        return None
    try:
        manifest: dict[str, Any] = json.loads(text)
        readable = manifest["format"] == FORMAT
        if readable:
            dict(manifest["made_of"])
    except (ValueError, KeyError, TypeError) as err:
        raise InputError("damaged", where=str(folder / MANIFEST), todo="remove the folder to start over") from err
    if not readable:
        raise InputError(
            f"the unfinished pool has format {manifest['format']}, but this version reads format {FORMAT}",
            where=str(folder),
            todo="finish it with the version that started it, or remove the folder to start over",
        )
    return manifest


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_file(folder / MANIFEST, json.dumps(manifest), fixed_name=True)


def _compare(folder: Path, manifest: Mapping[str, Any], made_of: Mapping[str, Any]) -> None:
    before = manifest["made_of"]
    if changed := [name for name in made_of if made_of[name] != before.get(name)]:
        raise InputError(
            f"the unfinished pool here has another {' and another '.join(_NAMES[name] for name in changed)}",
            where=str(folder),
            todo="repeat the original command to resume, or pass --fresh to start over",
        )


def _clear(folder: Path) -> None:
    """Delete the shards but keep the manifest, so that a kill in between leaves a valid pool."""
    for path in folder.iterdir():
        if path.name not in (LOCK, MANIFEST):
            path.unlink()
