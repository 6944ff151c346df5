"""What a role permits, by the rules of the security plugin."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from darl_opensearch.cluster.setup.assets import list_assets
from darl_opensearch.cluster.setup.options import SetupOptions

# opensearch-project/security, PrivilegesEvaluator.isClusterPerm: prefixes, and names as a whole.
CLUSTER_LEVEL = (
    "cluster:", "indices:admin/template/", "indices:admin/index_template/", "indices:data/read/scroll",
    "indices:data/read/msearch",
)  # fmt: skip
CLUSTER_LEVEL_NAMES = (
    "indices:data/write/bulk", "indices:data/read/mget", "indices:data/read/mtv", "indices:data/write/reindex",
)  # fmt: skip


def role_body(key: str, options: SetupOptions | None = None) -> Mapping[str, Any]:
    """A role as it is sent."""
    options = options or SetupOptions(index=("products",))
    return next(asset.body for asset in list_assets(options) if asset.name == f"darl_{key}")


def is_cluster_permission(action: str) -> bool:
    """Whether an action is checked for the cluster, and not for an index."""
    return action.startswith(CLUSTER_LEVEL) or action in CLUSTER_LEVEL_NAMES


def granted(body: Mapping[str, Any], action: str, index: str | None = None) -> bool:
    """Whether a role permits an action.

    :param index: the index that it is on; None: on any of the role's.
    """
    if is_cluster_permission(action):
        return any(fnmatchcase(action, pattern) for pattern in body["cluster_permissions"])
    return any(
        any(fnmatchcase(action, pattern) for pattern in part["allowed_actions"])
        for part in body["index_permissions"]
        if index is None or any(fnmatchcase(index, pattern) for pattern in part["index_patterns"])
    )
