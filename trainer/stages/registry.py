"""What a stage is: what it is given, what it says of itself, and the list of all of them."""

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
from trainer.stages.objective import Objective
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.run_data import RunData

Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    :param features: of the model, which the stage trains in place; it forgets them where it changes the encoder.
    :param objective: the loss of ``[loss]``.
    :param pairs: judged pairs by role: ``train`` (a sample where there are many), ``dev``, and ``new`` and
        ``ood_dev`` where the run has them.
    :param base: folder that the configuration's paths are relative to.
    :param run: the run's folder, for what outlives the stage.
    :param report: called with what is being done, steps done and steps in all.
    :param number: of the stage in the plan, from 0 on.
    :param weights_before: weights of the run before a stage that has been done; ``""``: before the first.
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
        """Folder of the stage's own checkpoints; dropped when the stage is done."""
        return stage_place(self.run, self.number, self.name)


@dataclass(frozen=True)
class Outcome:
    """What a stage brought.

    :param history: rows of ``step`` with ``train_loss`` and ``dev_loss``.
    :param gains: changes in nDCG of queries beside the dev set's that nothing was fitted on; they count with
        those of the dev queries.
    :param decided: who decides whether the weights stay, where it is not the plan: the stage itself, or a later
        one. They stay then.
    :param learnt_new: whether the weights have learnt from the new samples; None: as before.
    """

    history: list[dict[str, float]]
    gains: Sequence[float] = ()
    decided: str = ""
    learnt_new: bool | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


class Stage(ABC):
    """One step of the training plan.

    ``judged_on`` names the roles whose gains in nDCG decide whether it is kept: each weighs alike. ``rewinds``
    says that it asks for the run's start weights.
    """

    judged_on: tuple[str, ...] = ("dev",)
    rewinds: bool = False

    def check(self, config: Config) -> None:
        """Refuse a configuration that lacks what the stage needs.

        :raises UsageError: naming the key.
        """
        return

    def ready(self, config: Config, base: Path) -> None:
        """Look at everything that could stop the stage, before anything is trained.

        :param base: folder its paths are relative to.
        :raises DarlError: naming what is missing or wrong.
        """
        return

    @abstractmethod
    def run(self, context: Context) -> Outcome:
        """Train; broken off, the same call goes on and ends the same."""


STAGES: Registry[type[Stage]] = Registry("stage")


def check_plan(config: Config, where: str | None = None) -> None:
    """Refuse a plan that cannot run: an unknown stage, or one that lacks a key it needs.

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


def need(value: str, stage: str, key: str, todo: str) -> None:
    """Refuse a plan whose stage lacks a key.

    :raises UsageError: where the value is empty.
    """
    if not value:
        raise UsageError(f"[stages] run lists {stage}, but {key} is empty", todo=todo)
