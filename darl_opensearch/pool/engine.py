"""Where a command's work runs: on this machine, or on a Ray cluster."""

from __future__ import annotations

from typing import Literal

from darl_opensearch.errors import UsageError, load
from darl_opensearch.settings import Settings, setting

Engine = Literal["local", "ray"]


class EngineOptions(Settings):
    """Choice of the engine, and how Ray is reached."""

    engine: Engine = setting("local", "Run on this machine or on Ray.", env="DARL_ENGINE")
    address: str | None = setting(
        None, "Address of a running Ray cluster, or auto.  [default: start Ray on this machine]",
        env="DARL_RAY_ADDRESS", metavar="HOST:PORT",
    )  # fmt: skip
    workers: int | None = setting(
        None, "Number of Ray workers.  [default: as many as fit]", least=1, env="DARL_WORKERS"
    )

    def check(self) -> None:
        """Refuse Ray's options for the local engine, and Ray without its extra: before any input is read."""
        if self.engine == "ray":
            load("ray", "ray")
            load("pyarrow", "ray")
        elif self.address is not None or self.workers is not None:
            raise UsageError(
                "--address and --workers apply only to Ray, but the engine is local", todo="add --engine ray"
            )
