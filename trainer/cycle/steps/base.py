"""The interface of a cycle's steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.cycle.config import CycleConfig
from trainer.cycle.inputs import CycleInputs

# Files in a cycle's folder that a later step reads.
SELECTED, TASKS, JUDGMENTS = "select/selected.jsonl", "judge/tasks.jsonl", "judge/judgments.jsonl"
CONTROL_TASKS = "select/control.jsonl", "select/kept.jsonl"  # drawn for this cycle, and kept from the previous one
TRAINING, BUNDLE = "train", "bundle"  # folders
SCORES = "scores.npz"  # of the evaluation, reused by the gate

StepResult = Mapping[str, Any]  # JSON-ready


@dataclass(frozen=True)
class Waiting:
    """A step waits for people.

    :param reason: for whom, and what to do then.
    """

    reason: str


@dataclass(frozen=True)
class Ending:
    """A cycle ends after a step.

    :param outcome: see :class:`~trainer.cycle.run.CycleResult`.
    """

    outcome: str
    reason: str


@dataclass(frozen=True)
class Step:
    """One step of a cycle.

    :param name: name of the step and of its folder.
    :param tables: tables of ``cycle.toml`` that it reads, or ``table.key``; they must not change once it is done.
    :param run: runs the step; after a kill it resumes or starts over. It raises GateRefused if a check fails.
    :param ending: decides by the result whether the cycle ends here; None: the next step may start.
    """

    name: str
    help: str
    tables: tuple[str, ...]
    run: Callable[[CycleInputs], StepResult | Waiting]
    ending: Callable[[StepResult], Ending | None] = lambda result: None

    def settings(self, config: CycleConfig) -> dict[str, Any]:
        """Pick the part of the configuration that the step reads."""
        tables = config.to_json()
        found = {}
        for name in self.tables:
            table, _, key = name.partition(".")
            found[name] = tables[table][key] if key else tables[table]
        return found
