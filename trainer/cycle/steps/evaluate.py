"""Measure both versions on the ID test and on the control arm: for people; the gate decides by its own rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.cycle.samples import read_rows
from trainer.cycle.steps.base import SCORES, Context
from trainer.cycle.steps.train import CONTROL, ITEMS
from trainer.evaluate.evaluation import evaluate
from trainer.evaluate.kept_scores import KeptScores
from trainer.evaluate.report import write_folder
from trainer.evaluate.settings import Settings


def run(context: Context) -> Mapping[str, Any]:
    """Evaluate the exported graphs as the gate will, and write the page.

    :return: figures of each system and part, and the digest of the scores that are kept for the gate.
    """
    control, gate = context.file("train") / CONTROL, context.config.gate
    parts = [("id", context.id_test)] + ([("control", control)] if read_rows(control) else [])
    settings = Settings(
        models=(context.file("bundle"),), items=(context.file("train") / ITEMS,), parts=tuple(parts),
        against=(str(context.serving.path),), relevant_from=gate.relevant_from, int8=gate.int8,
        provider=gate.provider, threads=gate.threads, seed=gate.seed,
    )  # fmt: skip
    kept = KeptScores()
    found = evaluate(settings, report=context.world.report, kept=kept)
    write_folder(context.file("evaluation"), found)
    return {
        "figures": found.result["figures"], "comparisons": found.result["comparisons"],
        "scores": kept.write(context.file(SCORES)),
    }  # fmt: skip
