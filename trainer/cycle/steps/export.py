"""Export the new version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.cycle.steps.base import Context
from trainer.export import export_run
from trainer.run_folder import load_run


def run(context: Context) -> Mapping[str, Any]:
    """Turn the run into a bundle that names the cycle."""
    trained = load_run(context.file("train/run"))
    about = {
        "cycle": context.cycle.name, "from": context.serving.identity, "pairs": context.told("train").get("pairs"),
    }  # fmt: skip
    bundle = export_run(
        trained, context.file("train"), context.file("bundle"), int8=context.config.train.int8, about={"cycle": about},
        report=lambda what: context.world.report(what, 0, 1),
    )  # fmt: skip
    return {"version": bundle.card.version, "sha256": bundle.identity, "bundle": "bundle"}
