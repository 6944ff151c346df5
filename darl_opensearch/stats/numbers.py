"""Numbers in JSON: five decimals, and null for nan and infinities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def round_figure(value: float) -> float | None:
    """Round to five decimals; integers stay integers, nan and infinities become None."""
    if isinstance(value, int):
        return value
    return round(value, 5) if math.isfinite(value) else None


def replace_nan(value: Any) -> Any:
    """Replace nan and infinities, which JSON lacks, by None in nested mappings and lists."""
    if isinstance(value, Mapping):
        return {key: replace_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
