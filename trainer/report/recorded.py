"""Reads what a training run or a cycle has recorded in its folder, also one that has not finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from trainer.config import Config, parse_config
from trainer.cycle.folder import BEGUN, Cycle, read_record
from trainer.cycle.steps import STEPS
from trainer.cycle.steps.base import SELECTED, TRAINING
from trainer.dasa.run import MAP_FILE
from trainer.evaluate.report.folder import RESULT as EVALUATION
from trainer.run_folder import CONFIG, DATA, RESULT, ROOT, read_stage, stage_place

Record = Mapping[str, Any]
_TODO = "restore it"


@dataclass(frozen=True)
class RecordedRun:
    """A training run.

    :param data: counts and digests of what was read, by role.
    :param stages: outcomes of the stages that are done, in order.
    :param result: None: the run has not finished.
    """

    config: Config
    data: Record
    stages: Sequence[Record]
    result: Record | None

    @property
    def title(self) -> str:
        """Name and version of the model."""
        return f"{self.config.model.name} {self.config.model.version}"

    @property
    def measure(self) -> str:
        """The dev figure of order."""
        return f"ndcg@{self.config.stages.cutoff}"


@dataclass(frozen=True)
class RecordedCycle:
    """A cycle.

    :param folder: its own, such as ``cycles/0001``.
    """

    folder: Path

    @cached_property
    def begun(self) -> Record:
        """When and why it began, and from which version."""
        return Cycle(self.folder, 0).begun or {}

    @cached_property
    def outcome(self) -> Record | None:
        """How it ended; None: it has not."""
        return Cycle(self.folder, 0).outcome

    @cached_property
    def steps(self) -> dict[str, Record | None]:
        """Results of all steps, in order; None: not done."""
        return {step.name: Cycle(self.folder, 0).read_result(step.name) for step in STEPS}

    @cached_property
    def evaluation(self) -> Record | None:
        """The evaluation of both versions."""
        return read_record(self.folder / "evaluation" / EVALUATION, "systems", "figures", todo=_TODO)

    @cached_property
    def map(self) -> Record | None:
        """The selected queries among those trained on."""
        return read_record((self.folder / SELECTED).with_name(MAP_FILE), "kinds", todo=_TODO)

    @cached_property
    def run(self) -> RecordedRun | None:
        """The training; None: it has not begun."""
        run = self.folder / TRAINING / "run"
        return read_recorded_run(run) if _is_run(run) else None

    @property
    def title(self) -> str:
        """Name of the cycle, and of the model."""
        return f"Cycle {self.folder.resolve().name} of {self.begun['from']['name']}"


def read_recorded(folder: Path) -> RecordedRun | RecordedCycle:
    """Read a run's or a cycle's folder.

    :raises UsageError: if it is neither.
    :raises InputError: for a file that is not what was written.
    """
    if (folder / BEGUN).is_file():
        return RecordedCycle(folder)
    if _is_run(folder):
        return read_recorded_run(folder)
    raise UsageError(
        "neither a training run nor a cycle", where=str(folder),
        todo="name the folder that darl train was given as --run, or one of a cycle, such as cycles/0001",
    )  # fmt: skip


def _is_run(folder: Path) -> bool:
    """Whether it is a run's folder, finished or not; a bundle's checkpoint has the first two files as well."""
    names = {name for name in (CONFIG, DATA, ROOT, RESULT) if (folder / name).is_file()}
    return {CONFIG, DATA} < names


def read_recorded_run(folder: Path) -> RecordedRun:
    """Read a run.

    :raises InputError: for a file that is not what was written.
    """
    path = folder / CONFIG
    config = parse_config(read_record(path, todo=_TODO) or {}, where=str(path))
    result = read_record(folder / RESULT, "start", "stages", "dev", todo=_TODO)
    stages = list(result["stages"]) if result else []
    if result is None:
        for number, name in enumerate(config.stages.run):
            if (stage := read_stage(stage_place(folder, number, name))) is None:
                break
            stages.append(stage)
    return RecordedRun(config, read_record(folder / DATA, todo=_TODO) or {}, stages, result)
