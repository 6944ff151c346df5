"""Ends a cycle whose steps are done, killed around telling of it.

``python -m tests.helpers.killed_telling cycle.toml``

A script, so that the kills are real ones. Each life is a child process; the webhook is that of the configuration.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Kill when the outcome is written, then when it is told, then not at all, twice; print how each life ended."""
    from darl_opensearch.cli.cycle_world import Surroundings
    from darl_opensearch.connect import ClusterOptions
    from trainer.cycle.config import read_cycle
    from trainer.cycle.folder import Cycle
    from trainer.cycle.ports import StartDecision
    from trainer.cycle.run import run_cycle

    path = Path(sys.argv[1])
    config, end = read_cycle(path), Cycle.end
    world = Surroundings(config, path.parent, ClusterOptions()).world()
    world = dataclasses.replace(world, start=lambda bundle: StartDecision(False, ("there is no drift",)))

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for life in ("outcome", "told", "end", "once more"):
        if not (pid := os.fork()):
            if life == "outcome":
                Cycle.end = lambda *given, **more: die(end(*given, **more))  # type: ignore[method-assign,assignment]
            if life == "told":
                Cycle.mark_notified = die  # type: ignore[method-assign,assignment]
            os._exit(0 if run_cycle(config, path.parent, world).outcome == "idle" else 9)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{life} {os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
