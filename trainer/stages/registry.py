"""The interface of stages, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import nearest
from trainer.config import Config
from trainer.registry import Registry
from trainer.run_folder import stage_place
from trainer.stages.calibrated import Gains
from trainer.stages.objective import Objective
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.run_data import RunData

Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Context:
    """Inputs of a stage.

    :param features: of the model, which the stage trains in place; a stage that changes the encoder must call
        ``forget``.
    :param objective: the loss of ``[loss]``.
    :param pairs: judged pairs by role: ``train`` (possibly a sample), ``dev``, and ``new`` and ``ood_dev`` if the run
        has them.
    :param base: folder that the configuration's paths are relative to.
    :param run: the run's folder, for files that outlive the stage.
    :param report: called with what is being done, steps done and steps in all.
    :param number: position of the stage in the plan, from 0.
    :param weights_before: returns the run's weights before a finished stage; ``""``: before the first.
    """

    features: Features
    objective: Objective
    config: Config
    data: RunData
    pairs: Mapping[str, Pairs]
    base: Path
    run: Path
    report: Report
    number: int = 0
    weights_before: Callable[[str], dict[str, Tensor]] = lambda stage: {}

    @property
    def model(self) -> Any:
        """The backbone."""
        return self.features.model

    @property
    def seed(self) -> int:
        """Seed of everything random."""
        return self.config.seed

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.config.stages.run[self.number]

    @property
    def later(self) -> tuple[str, ...]:
        """Names of the stages to come."""
        return self.config.stages.run[self.number + 1 :]

    @property
    def place(self) -> Path:
        """Folder of the stage's checkpoints, deleted when it is done."""
        return stage_place(self.run, self.number, self.name)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a stage.

    :param history: rows of ``step`` with ``train_loss`` and ``dev_rps`` or, where a head is fitted, ``dev_loss``.
    :param gains: of further held-out queries, which count like those of the dev queries.
    :param decided: what decides on keeping the weights in place of the plan, such as a later stage; they are kept for
        now. Empty: the plan decides.
    :param learnt_new: whether the weights have learnt from the new samples; None: as before.
    """

    history: list[dict[str, float]]
    gains: Gains = Gains()
    decided: str = ""
    learnt_new: bool | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


class Stage(ABC):
    """A stage of the training plan.

    ``judged_on`` names the roles whose gains decide with equal weight whether it is kept. A stage that is
    ``cross_validated`` is also measured on training queries that it has not learnt from, where dev queries are few.
    """

    judged_on: tuple[str, ...] = ("dev",)
    cross_validated: bool = False

    def check(self, config: Config) -> None:
        """Refuse a configuration without the keys that the stage needs, with a UsageError that names the key."""
        return

    def ready(self, config: Config, base: Path) -> None:
        """Check everything that could stop the stage, before any training.

        :param base: folder that the configuration's paths are relative to.
        :raises DarlError: naming what is missing or wrong.
        """
        return

    @abstractmethod
    def run(self, context: Context) -> Outcome:
        """Train; after an interruption, the same call resumes with the same result."""


STAGES: Registry[type[Stage]] = Registry("stage")


def check_plan(config: Config, where: str | None = None) -> None:
    """Refuse a plan with an unknown stage, or one that lacks a key.

    :param where: the configuration's file, named in the error.
    :raises UsageError: naming the stage, or its key.
    """
    check_stages(config.stages.run, "[stages] run", where)
    for stage in config.stages.run:
        try:
            STAGES[stage].make().check(config)
        except UsageError as err:
            raise UsageError(err.what, where=where or err.where, todo=err.todo) from err


def check_stages(stages: Sequence[str], key: str, where: str | None = None) -> None:
    """Refuse unknown stages.

    :param key: the key that lists them, named in the error together with its file.
    :raises UsageError: suggesting the nearest known stage.
    """
    for stage in stages:
        if stage not in set(STAGES):
            raise UsageError(f"{key} lists {stage!r}", where=where, todo=nearest(stage, STAGES))


def require_key(value: str, stage: str, key: str, todo: str) -> None:
    """Refuse an empty value of a key that a stage needs with a UsageError."""
    if not value:
        raise UsageError(f"[stages] run lists {stage}, but {key} is empty", todo=todo)
