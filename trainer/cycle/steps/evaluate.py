"""Evaluate both versions on the ID test and the control arm, for people; the gate decides by its own rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.cycle.ports import Report
from trainer.cycle.samples import read_rows
from trainer.cycle.steps.base import BUNDLE, SCORES, TRAINING
from trainer.cycle.steps.train import CONTROL, ITEMS
from trainer.evaluate.evaluation import evaluate
from trainer.evaluate.report import write_folder
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.settings import EvaluationOptions, GateOptions


def measure_versions(
    gate: GateOptions, serving: Path, *, id_test: Path, folder: Path, report: Report
) -> dict[str, Any]:
    """Evaluate the exported graphs as the gate will, and write the page.

    :return: figures of each system and part, and the digest of the scores kept for the gate.
    """
    control = folder / TRAINING / CONTROL
    settings = EvaluationOptions(
        models=(folder / BUNDLE,), items=(folder / TRAINING / ITEMS,),
        parts=(("id", id_test), *([("control", control)] if read_rows(control) else [])),
        against=(str(serving),), relevant_from=gate.relevant_from, int8=gate.int8, provider=gate.provider,
        threads=gate.threads, seed=gate.seed,
    )  # fmt: skip
    scores = ScoreCache()
    evaluation = evaluate(settings, report=report, score_cache=scores)
    write_folder(folder / "evaluation", evaluation)
    return {
        "figures": evaluation.result["figures"], "comparisons": evaluation.result["comparisons"],
        "scores": scores.write(folder / SCORES),
    }  # fmt: skip
