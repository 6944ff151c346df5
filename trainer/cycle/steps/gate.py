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
from trainer.cycle.steps.base import BUNDLE, SCORES, TRAINING, Ending, Left
from trainer.cycle.steps.train import CONTROL, ITEMS, NEW, OLD, OOD_DEV
from trainer.evaluate.gate import gate
from trainer.evaluate.kept_scores import KeptScores
from trainer.evaluate.settings import GateOptions


def ask_gate(
    options: GateOptions, base: Path, serving: Bundle, *, id_test: Path, scores: str | None, folder: Path,
    report: Report,
) -> dict[str, Any]:  # fmt: skip
    """Ask the gate.

    :param base: folder that the options' paths are relative to.
    :param scores: digest of the scores that evaluate has kept.
    :return: its report; ``passed`` says yes or no.
    """
    project = folder / TRAINING
    trained = [project / name for name in (OLD, NEW)] + ([project / OOD_DEV] if read_rows(project / OOD_DEV) else [])
    options = dataclasses.replace(options, train=(*trained, *(base / path for path in options.train)))
    verdict = gate(
        serving, Bundle.open(folder / BUNDLE), items=project / ITEMS, id_test=id_test, control=project / CONTROL,
        options=options, report=report, kept_scores=KeptScores.read(folder / SCORES, scores),
    )  # fmt: skip
    return verdict.to_json()


def end_refused(left: Left) -> Ending | None:
    """End a cycle that the gate refused."""
    return None if left["passed"] else Ending(REFUSED, "the gate refused it: " + "; ".join(left["reasons"]))


def open_gated(folder: Path, verdict: Left) -> Bundle:
    """Open the new bundle, if it is the one that the gate let pass.

    :raises GateRefused: for another one: it lies in a folder until it is released, and folders get written to.
    """
    bundle, about = Bundle.open(folder / BUNDLE), verdict.get("new")
    if verdict.get("passed") is not True or not isinstance(about, dict) or about.get("identity") != bundle.identity:
        raise GateRefused(
            "this is not the bundle that passed the gate", where=str(bundle.path),
            todo="restore that bundle, or end the cycle with darl cycle --abandon and start another",
        )  # fmt: skip
    return bundle
