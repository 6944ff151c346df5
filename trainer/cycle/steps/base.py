"""What a step is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import GateRefused
from trainer.config import Config, read_config
from trainer.cycle.config import CycleConfig
from trainer.cycle.folder import Cycle, Cycles
from trainer.cycle.ports import World
from trainer.cycle.samples import read_rows
from trainer.stages.registry import check_plan

SELECTED, JUDGMENTS = "select/selected.jsonl", "judge/judgments.jsonl"
SCORES = "scores.npz"  # what evaluate has scored and the gate need not
CONTROL_TASKS = "select/control.jsonl", "select/kept.jsonl"  # drawn for this cycle, and kept of the one before


@dataclass(frozen=True)
class Context:
    """What a step is given.

    :param base: folder that its paths are relative to.
    """

    config: CycleConfig
    base: Path
    cycles: Cycles
    cycle: Cycle
    serving: Bundle
    world: World

    def file(self, name: str) -> Path:
        """Locate a file of this cycle."""
        return self.cycle.path / name

    @cached_property
    def training(self) -> Config:
        """The darl.toml that the first bundle was trained by."""
        config = read_config(self.training_path)
        check_plan(config, str(self.training_path))
        return config

    @property
    def training_path(self) -> Path:
        """Where that darl.toml is."""
        return self.base / self.config.model.config

    @property
    def catalogues(self) -> list[Path]:
        """Files of items: those trained on at first, and those that came later."""
        first = self.training_path.parent / self.training.data.items
        return [first, *(self.base / name for name in self.config.model.catalogue)]

    @property
    def id_test(self) -> Path:
        """Judgments of the traffic that was trained on."""
        return self.base / self.config.gate.id_test

    def gated(self) -> Bundle:
        """Open the new bundle, if it is the one that the gate let pass.

        :raises GateRefused: for another one: it lies in a folder until it is released, and folders get written to.
        """
        bundle, said = Bundle.open(self.file("bundle")), self.told("gate")
        about = said.get("new")
        if said.get("passed") is not True or not isinstance(about, dict) or about.get("identity") != bundle.identity:
            raise GateRefused(
                "this is not the bundle that the gate let pass", where=str(bundle.path),
                todo="put that one back, or end the cycle with darl cycle --abandon and begin another",
            )  # fmt: skip
        return bundle

    def former(self) -> Iterator[Cycle]:
        """Go through the cycles before this one whose samples were judged."""
        for cycle in self.cycles.all():
            if cycle.number < self.cycle.number and cycle.done("judge") is not None:
                yield cycle

    def former_rows(self, name: str, *texts: str) -> list[dict[str, Any]]:
        """Read a JSONL file of every former cycle.

        :param *texts: fields that every line must have, as text.
        :return: its rows, oldest first.
        """
        return [row for cycle in self.former() for row in read_rows(cycle.path / name, *texts)]

    def told(self, step: str) -> dict[str, Any]:
        """Look up what an earlier step left."""
        return self.cycle.done(step) or {}


@dataclass(frozen=True)
class Step:
    """One step of a cycle.

    :param name: its name, also of its folder.
    :param help: one line on what it does.
    :param tables: tables of ``cycle.toml`` that it reads: it has to be done again when they change.
    :param run: does it, and says what it left; done again after a kill it goes on or starts over.
    """

    name: str
    help: str
    tables: tuple[str, ...]
    run: Callable[[Context], Mapping[str, Any]]

    def settings(self, config: CycleConfig) -> dict[str, Any]:
        """Pick the part of the configuration that the step reads."""
        tables = config.to_json()
        return {name: tables[name] for name in self.tables}


class Waiting(Exception):
    """A step cannot go on by itself."""
