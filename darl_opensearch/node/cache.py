"""The cache's folders, and locks on them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.errors import DarlError
from darl_opensearch.io.cache import find_named_cache, find_user_cache
from darl_opensearch.io.lock import hold_lock
from darl_opensearch.node.account import Account
from darl_opensearch.node.manifest import Manifest

Report = Callable[[str], None]
SYSTEM_CACHE = Path("/var/cache/darl-opensearch")


def silent(_: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Layout:
    """Paths in a cache."""

    cache: Path

    @property
    def root(self) -> Path:
        """Folder of everything that belongs to nodes."""
        return self.cache / "node"

    @property
    def maven_repo(self) -> Path:
        """Our own local Maven repository, so that broken files in it may be deleted."""
        return self.root / "maven"

    def downloads(self, manifest: Manifest) -> Path:
        """Folder of verified downloads."""
        return self.root / manifest.version / "downloads"

    def dist(self, manifest: Manifest) -> Path:
        """Folder of the assembled node: shared by all instances, read-only, complete if it exists."""
        return self.root / manifest.version / f"dist-{manifest.digest[:12]}"

    def instance(self, port: int) -> Path:
        """Folder of one node's own files; its HTTP port names it."""
        return self.root / "instances" / str(port)

    def lock(self, name: str) -> Path:
        """Lock file; it survives a purge, so that all waiters lock the same file.

        :param name: ``assembly`` or a port.
        """
        return self.root / "locks" / f"{name}.lock"


def find_cache(requested: Path | None, account: Account | None, report: Report = silent) -> Layout:
    """Choose the cache folder.

    :param requested: by default ``DARL_CACHE``, then the user's cache folder.
    :param account: the user who runs the node and must be able to read the cache; None for the current user.
    :param report: called if the node's user cannot reach the default, and the system's cache folder is used instead.
    :raises DarlError: if that user cannot reach the requested folder.
    """
    requested = requested or find_named_cache()
    chosen = requested or find_user_cache()
    chosen = Path(os.path.abspath(chosen.expanduser()))  # noqa: PTH100  a linked cache keeps the name the user knows
    if re.search(r"[\s:]", str(chosen)):
        raise DarlError(
            "OpenSearch's start script cannot handle a path with a space or a colon",
            where=str(chosen),
            todo="choose another folder with --cache or DARL_CACHE",
        )
    if account is None or account.can_reach(chosen):
        return Layout(chosen)
    if requested is not None:
        raise DarlError(
            f"user {account.name}, who runs the node, cannot reach this folder",
            where=str(chosen),
            todo="choose another with --cache or DARL_CACHE, or another user with DARL_NODE_USER",
        )
    report(f"user {account.name} cannot reach {chosen}; using {SYSTEM_CACHE}")
    return Layout(SYSTEM_CACHE)


def make_folder(folder: Path) -> Path:
    """Create a folder, with its parents, that every user may read, whatever the umask."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    return folder


@contextmanager
def lock_cache(path: Path, report: Report = silent, *, wait_s: float = 1800.0) -> Iterator[None]:
    """Hold one of the cache's locks.

    :raises DarlError: if another process holds it for longer than ``wait_s``.
    """
    make_folder(path.parent)
    busy = f"another process has held this lock for over {wait_s:.0f} s"

    def waiting(holder: str) -> None:
        report(f"waiting for another process that is using the same node ({holder})")

    with hold_lock(path, busy, todo="end it", wait_s=wait_s, waiting=waiting):
        yield
