"""Settings of commands that fill a folder of item states."""

from __future__ import annotations

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import FolderPath, Settings, setting
from darl_opensearch.states.store import DISK_BYTES

MOST_ITEMS = 65_535  # buckets that a cluster gives by default


class StatesPlace(Settings):
    """Where item states are kept, and for which scorers."""

    states: FolderPath | None = setting(None, "folder of the item states, as for darl serve", env="DARL_STATES")
    states_bytes: int = setting(
        DISK_BYTES, "maximum size of that folder; the oldest states go first", least=2**20, env="DARL_STATES_BYTES"
    )
    int8: bool = setting(False, "encode with the quantised graph, for scorers that serve it", env="DARL_INT8")


def parse_item_count(items: str) -> int | None:
    """Parse which items to encode: ``all``, None, or a number: those that the OOD log has most pairs of.

    :raises UsageError: for anything else.
    """
    if items == "all":
        return None
    if not items.isdecimal() or not 0 < int(items) <= MOST_ITEMS:
        raise UsageError(f"the items to warm are {items!r}", todo=f"write all, or a number from 1 to {MOST_ITEMS}")
    return int(items)
