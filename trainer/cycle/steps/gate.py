"""Compare both versions on the ID test and on the control arm."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import GateRefused
from trainer.cycle.folder import REFUSED
from trainer.cycle.ports import Report
from trainer.cycle.samples import read_rows
from trainer.cycle.steps.base import BUNDLE, SCORES, TRAINING, Ending, StepResult
from trainer.cycle.steps.train import CONTROL, ITEMS, NEW, OLD, OOD_DEV
from trainer.evaluate.gate import gate
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.settings import GateOptions


def ask_gate(
    options: GateOptions, base: Path, serving: Bundle, *, id_test: Path, scores: str | None, folder: Path,
    report: Report,
) -> dict[str, Any]:  # fmt: skip
    """Run the gate and return its report, with ``passed``.

    :param base: folder that the options' paths are relative to.
    :param scores: digest of the scores that evaluate has kept.
    """
    project = folder / TRAINING
    trained = [project / name for name in (OLD, NEW)] + ([project / OOD_DEV] if read_rows(project / OOD_DEV) else [])
    options = dataclasses.replace(options, train=(*trained, *(base / path for path in options.train)))
    verdict = gate(
        serving, Bundle.open(folder / BUNDLE), items=project / ITEMS, id_test=id_test, control=project / CONTROL,
        options=options, report=report, score_cache=ScoreCache.read(folder / SCORES, scores),
    )  # fmt: skip
    return verdict.to_json()


def end_refused(result: StepResult) -> Ending | None:
    """End a cycle that the gate refused."""
    return None if result["passed"] else Ending(REFUSED, "the gate refused it: " + "; ".join(result["reasons"]))


def open_gated(folder: Path, verdict: StepResult) -> Bundle:
    """Open the bundle that passed the gate.

    :raises GateRefused: for any other bundle: the folder may have been overwritten since.
    """
    bundle, about = Bundle.open(folder / BUNDLE), verdict.get("new")
    if verdict.get("passed") is not True or not isinstance(about, dict) or about.get("identity") != bundle.identity:
        raise GateRefused(
            "this is not the bundle that passed the gate", where=str(bundle.path),
            todo="restore that bundle, or end the cycle with darl cycle --abandon and start another",
        )  # fmt: skip
    return bundle
