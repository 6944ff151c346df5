"""Folders in the cache, and locks on them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from darl_opensearch.errors import DarlError
from darl_opensearch.io.lock import hold_lock
from darl_opensearch.node.account import Account
from darl_opensearch.node.manifest import Manifest

Report = Callable[[str], None]
SYSTEM_CACHE = Path("/var/cache/darl-opensearch")


def silent(_: str) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Layout:
    """Where everything of the nodes lies in a cache."""

    cache: Path

    @property
    def root(self) -> Path:
        """Folder of all that belongs to nodes."""
        return self.cache / "node"

    @property
    def maven_repo(self) -> Path:
        """Maven's local repository, ours alone, so that a broken file in it is ours to delete."""
        return self.root / "maven"

    def downloads(self, manifest: Manifest) -> Path:
        """Folder of verified downloads."""
        return self.root / manifest.version / "downloads"

    def dist(self, manifest: Manifest) -> Path:
        """Folder of the assembled node: shared by all instances, read only, complete when it is there."""
        return self.root / manifest.version / f"dist-{manifest.digest[:12]}"

    def instance(self, port: int) -> Path:
        """Folder of one node's own files.

        :param port: the node's HTTP port, which names it.
        """
        return self.root / "instances" / str(port)

    def lock(self, name: str) -> Path:
        """Lock file; it stays when what it guards is purged, so that all waiters hold the same one.

        :param name: ``assembly`` or a port.
        """
        return self.root / "locks" / f"{name}.lock"


def find_cache(asked: Path | None, account: Account | None, report: Report = silent) -> Layout:
    """Choose the cache folder.

    :param asked: the folder asked for; default ``DARL_CACHE``, then the user's cache folder.
    :param account: who will run the node and must be able to read the cache; None for whoever runs this.
    :param report: told when the user's cache folder cannot serve and the system's is taken.
    :raises DarlError: when a folder was asked for that the user cannot reach.
    """
    if asked is None and (named := os.environ.get("DARL_CACHE")):
        asked = Path(named)
    chosen = asked or Path(platformdirs.user_cache_dir("darl-opensearch"))
    chosen = Path(os.path.abspath(chosen.expanduser()))  # noqa: PTH100  a linked cache keeps the name the user knows
    if re.search(r"[\s:]", str(chosen)):
        raise DarlError(
            "OpenSearch's start script cannot handle a path with a space or a colon",
            where=str(chosen),
            todo="choose another folder with --cache or DARL_CACHE",
        )
    if account is None or account.can_reach(chosen):
        return Layout(chosen)
    if asked is not None:
        raise DarlError(
            f"user {account.name}, who runs the node, cannot reach this folder",
            where=str(chosen),
            todo="choose another with --cache or DARL_CACHE, or another user with DARL_NODE_USER",
        )
    report(f"user {account.name} cannot reach {chosen}; using {SYSTEM_CACHE}")
    return Layout(SYSTEM_CACHE)


def make_folder(folder: Path) -> Path:
    """Make a folder that every user may read, whatever the umask.

    :param folder: the folder; missing parents are made alike.
    """
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(exist_ok=True)
        part.chmod(0o755)
    return folder


@contextmanager
def locked(path: Path, report: Report = silent, *, wait_s: float = 1800.0) -> Iterator[None]:
    """Hold a lock of the cache.

    :raises DarlError: when the wait was in vain.
    """
    make_folder(path.parent)
    busy = f"another process has held this lock for over {wait_s:.0f} s"

    def waiting(holder: str) -> None:
        report(f"waiting for another process that is using the same node ({holder})")

    with hold_lock(path, busy, todo="end it", wait_s=wait_s, waiting=waiting):
        yield
