"""Export the new version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.cycle.ports import Report
from trainer.cycle.steps.base import BUNDLE, TRAINING
from trainer.export import export_run
from trainer.run_folder import load_run


def export_version(folder: Path, *, about: Mapping[str, Any], int8: bool, report: Report) -> dict[str, Any]:
    """Export the run as a bundle.

    :param about: the cycle's entry in the bundle's card.
    """
    project = folder / TRAINING
    bundle = export_run(
        load_run(project / "run"), project, folder / BUNDLE, int8=int8, about={"cycle": about},
        report=lambda what: report(what, 0, 1),
    )  # fmt: skip
    return {"version": bundle.card.version, "sha256": bundle.identity, "bundle": BUNDLE}
