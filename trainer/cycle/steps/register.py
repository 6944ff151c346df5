"""Bring the new version to where it can serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.cycle.steps.base import Context


def run(context: Context) -> Mapping[str, Any]:
    """Register, deploy and compare; no search notices."""
    return context.world.deployment.register(context.gated())
