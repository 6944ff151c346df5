"""The user a node runs as: OpenSearch refuses to run as root."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.errors import DarlError


@dataclass(frozen=True)
class Account:
    """A system user."""

    name: str
    uid: int
    gid: int

    def can_reach(self, path: Path) -> bool:
        """Whether the user may enter every folder on the way to a path and read the path itself.

        Only mode bits are checked; parts that do not exist yet count as reachable.
        """
        path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  resolve() would hide links' own parents
        return all(self.may_enter(part) for part in (*path.resolve().parents, *path.parents, path))

    def may_enter(self, part: Path) -> bool:
        """Whether the user may read this file, or pass through this folder."""
        try:
            status = part.stat()
        except FileNotFoundError:
            return True
        except PermissionError:
            return False
        need = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
        if status.st_uid == self.uid:
            need <<= 6
        elif status.st_gid == self.gid:
            need <<= 3
        return bool(status.st_mode & need)


def node_account(name: str | None = None) -> Account | None:
    """Choose the user to start a node as.

    :param name: by default ``DARL_NODE_USER``, then ``nobody``; ignored unless this process is root.
    :return: None unless this process is root: the node then runs as the same user.
    :raises DarlError: if the user does not exist or is root.
    """
    if os.geteuid() != 0:
        return None
    name = name or os.environ.get("DARL_NODE_USER") or "nobody"
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise DarlError(
            f"user {name!r} does not exist", where="DARL_NODE_USER", todo="set it to an existing user"
        ) from None
    if entry.pw_uid == 0:
        raise DarlError(
            "OpenSearch refuses to run as root", where="DARL_NODE_USER", todo="set another user, such as nobody"
        )
    return Account(name, entry.pw_uid, entry.pw_gid)
