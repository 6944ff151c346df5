"""``darl uninstall``: take away what ``darl register`` and ``darl release`` made for a pipeline."""

from __future__ import annotations

from darl_opensearch.cluster.uninstall.plan import plan_removal
from darl_opensearch.cluster.uninstall.removal import Kept, Removal, UninstallOptions
from darl_opensearch.cluster.uninstall.remove import remove

__all__ = ["Kept", "Removal", "UninstallOptions", "plan_removal", "remove"]
