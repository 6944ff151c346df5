"""What a step of a cycle is, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.cycle.config import CycleConfig
from trainer.cycle.inputs import CycleInputs

# Files in a cycle's folder that a later step reads.
SELECTED, JUDGMENTS = "select/selected.jsonl", "judge/judgments.jsonl"
CONTROL_TASKS = "select/control.jsonl", "select/kept.jsonl"  # drawn for this cycle, and kept of the one before
TRAINING, BUNDLE = "train", "bundle"  # folders
SCORES = "scores.npz"  # what evaluate has scored and the gate need not

Left = Mapping[str, Any]  # what a step says it did, JSON-ready


@dataclass(frozen=True)
class Waiting:
    """A step cannot be done before people have answered.

    :param reason: for whom, and what to do then.
    """

    reason: str


@dataclass(frozen=True)
class Ending:
    """A cycle ends behind a step.

    :param outcome: see :class:`~trainer.cycle.run.CycleResult`.
    """

    outcome: str
    reason: str


@dataclass(frozen=True)
class Step:
    """One step of a cycle.

    :param name: its name, also of its folder.
    :param tables: tables of ``cycle.toml`` that it reads: it has to be done again when they change.
    :param run: does it; called again after a kill it goes on or starts over. It raises GateRefused when something was
        checked and found not good enough.
    :param ending: says of what it left whether the cycle ends here; None: the next step may begin.
    """

    name: str
    help: str
    tables: tuple[str, ...]
    run: Callable[[CycleInputs], Left | Waiting]
    ending: Callable[[Left], Ending | None] = lambda left: None

    def settings(self, config: CycleConfig) -> dict[str, Any]:
        """Pick the part of the configuration that the step reads."""
        tables = config.to_json()
        return {name: tables[name] for name in self.tables}
