"""Inputs of a cycle's steps: the files that ``cycle.toml`` names, earlier cycles, and the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from darl_opensearch.bundle import Bundle
from trainer.config import Config, read_config
from trainer.cycle.config import CycleConfig
from trainer.cycle.folder import Cycle, Cycles
from trainer.cycle.ports import World
from trainer.cycle.samples import read_rows
from trainer.stages.registry import check_plan
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import RunData


@dataclass(frozen=True)
class FirstTraining:
    """The training of the bundle that serves before the first cycle.

    :param path: its ``darl.toml``.
    """

    path: Path

    @cached_property
    def config(self) -> Config:
        """Its configuration, with a checked plan."""
        config = read_config(self.path)
        check_plan(config, str(self.path))
        return config

    def files(self, *keys: str) -> list[Path]:
        """List the files that keys of ``[data]`` name."""
        return [self.path.parent / name for key in keys if (name := getattr(self.config.data, key))]

    def read_data(self, tokenizer: Tokenizer) -> RunData:
        """Read its data, with the same split."""
        return read_data(self.config, self.path.parent, tokenizer)


@dataclass(frozen=True)
class CycleInputs:
    """Inputs that :data:`~trainer.cycle.steps.STEPS` passes to each step.

    :param base: folder that the configuration's paths are relative to.
    """

    config: CycleConfig
    base: Path
    cycles: Cycles
    cycle: Cycle
    serving: Bundle
    world: World

    @cached_property
    def first(self) -> FirstTraining:
        """The training of the bundle that serves before the first cycle."""
        return FirstTraining(self.base / self.config.model.config)

    @property
    def catalogues(self) -> list[Path]:
        """Item files: those of the first training, then those added since."""
        return [*self.first.files("items"), *(self.base / name for name in self.config.model.catalogue)]

    @property
    def id_test(self) -> Path:
        """Judgments of in-distribution traffic."""
        return self.base / self.config.gate.id_test

    @cached_property
    def earlier(self) -> list[Path]:
        """Folders of the earlier cycles that have judgments, oldest first."""
        return [
            cycle.path for cycle in self.cycles.all()
            if cycle.number < self.cycle.number and cycle.read_result("judge") is not None
        ]  # fmt: skip

    def result(self, step: str) -> dict[str, Any]:
        """Read the result of a step; empty while it is not done."""
        return self.cycle.read_result(step) or {}


def read_each(folders: Sequence[Path], name: str, *texts: str) -> list[dict[str, Any]]:
    """Read the rows of a JSONL file in every folder, in order.

    :param *texts: fields that every line must have, as text.
    """
    return [row for folder in folders for row in read_rows(folder / name, *texts)]
