"""Let searches go to the new version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.cycle.steps.base import Context


def run(context: Context) -> Mapping[str, Any]:
    """Release in the cluster, then point to the bundle that the next cycle starts from."""
    bundle = context.gated()
    done = context.world.deployment.release(bundle, cycle=context.cycle.name, gate=context.told("gate"))
    context.cycles.switch(context.cycle, bundle.path)
    return dict(done)
