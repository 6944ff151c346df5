"""How numbers are written: five decimals, and null where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def rounded(value: float) -> float | None:
    """Round to five decimals; whole numbers stay whole, NaN and infinities become None."""
    if isinstance(value, int):
        return value
    return round(value, 5) if math.isfinite(value) else None


def without_nan(value: Any) -> Any:
    """Replace every float in nested mappings and lists that JSON cannot hold (NaN, infinities) by None."""
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
