"""Item states: an item's half of the split backbone, computed once and kept."""

from __future__ import annotations

from darl_opensearch.states.keys import StateKeys
from darl_opensearch.states.state import QUERY_LEVELS, ZERO, ItemState, pack_state, round_states, unpack_state
from darl_opensearch.states.store import DISK_BYTES, MEMORY_BYTES, StateStore

__all__ = [
    "DISK_BYTES",
    "MEMORY_BYTES",
    "QUERY_LEVELS",
    "ZERO",
    "ItemState",
    "StateKeys",
    "StateStore",
    "pack_state",
    "round_states",
    "unpack_state",
]
