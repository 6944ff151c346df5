"""Runs a cycle, killed at each step: ``python -m tests.helpers.killed_cycle cycle.toml when``.

A process of its own, so that the kill is a real one. ``when`` is ``before`` or ``after`` a step is noted as
done. Each life of the cycle is a child process.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Kill and go on, step after step; print how each life ended."""
    import torch

    from tests.helpers.cycles import world
    from trainer.cycle import folder as cycles
    from trainer.cycle.config import read_cycle
    from trainer.cycle.run import run_cycle
    from trainer.cycle.steps import STEPS

    path, when = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    config, real = read_cycle(path), cycles.Cycle.finish
    for step in (*(s.name for s in STEPS), ""):
        if not (pid := os.fork()):

            def finish(self: object, name: str, result: object, *, at: str = step) -> None:
                if name == at and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                real(self, name, result)  # type: ignore[arg-type]
                if name == at:
                    os.kill(os.getpid(), signal.SIGKILL)

            cycles.Cycle.finish = finish  # type: ignore[method-assign,assignment]
            outcome = run_cycle(config, path.parent, world(path.parent)).outcome
            os._exit(0 if outcome == "released" else 9)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{step or 'end'} {os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
