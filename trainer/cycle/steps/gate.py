"""Compare both versions on the ID test and on the control arm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from darl_opensearch.bundle import Bundle
from trainer.cycle.samples import read_rows
from trainer.cycle.steps.base import SCORES, Context
from trainer.cycle.steps.train import CONTROL, ITEMS, NEW, OLD, OOD_DEV
from trainer.evaluate.gate import gate
from trainer.evaluate.kept_scores import KeptScores


def run(context: Context) -> Mapping[str, Any]:
    """Ask the gate.

    :return: its report; ``passed`` says yes or no.
    """
    folder = context.file("train")
    own = context.config.gate
    stopped = [folder / OOD_DEV] if read_rows(folder / OOD_DEV) else []
    further = [context.base / path for path in own.train]
    options = dataclasses.replace(own, train=(folder / OLD, folder / NEW, *stopped, *further))
    said = gate(
        context.serving, Bundle.open(context.file("bundle")), items=folder / ITEMS, id_test=context.id_test,
        control=folder / CONTROL, options=options, report=context.world.report,
        kept=KeptScores.read(context.file(SCORES), context.told("evaluate").get("scores")),
    )  # fmt: skip
    return said.to_json()
