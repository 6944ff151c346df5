"""Settings of the commands that encode items."""

from __future__ import annotations

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.settings import setting
from darl_opensearch.states import StateStore
from darl_opensearch.states.options import StatesPlace


class WarmOptions(StatesPlace):
    """Where item states are kept, and how they are encoded."""

    provider: Provider = setting("cpu", "where the graph runs", env="DARL_PROVIDER")
    threads: int | None = setting(
        None, "batches encoded in parallel.  [default: the cores available to this process]", least=1,
        env="DARL_THREADS",
    )  # fmt: skip

    def open_store(self, bundle: Bundle) -> StateStore:
        """Open the store for the states of a bundle's items; it keeps none in memory.

        :raises UsageError: without a folder.
        :raises DarlError: if the bundle has no graphs for states.
        """
        if self.states is None:
            raise UsageError(
                "the item states have no folder", todo="pass --states FOLDER, the one that darl serve uses"
            )
        if not bundle.has_states(int8=self.int8):
            raise DarlError(
                "this bundle's items have no states of their own" + (" in int8" if self.int8 else ""),
                where=str(bundle.path), todo="states are for models of the split backbone: export the model again",
            )  # fmt: skip
        return StateStore(self.states, disk_bytes=self.states_bytes, memory_bytes=0)
