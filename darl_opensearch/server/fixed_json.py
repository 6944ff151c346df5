"""JSON for ML Commons: fixed-point numbers, ASCII only.

Its cohere post-process function casts ``relevance_score`` to a Java ``Double``; a number without a point becomes an
Integer and one with many digits a BigDecimal, and either fails the search. Its HTTP client decodes UTF-8 chunk by
chunk, which breaks characters at chunk boundaries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

DECIMALS = 6
_BOUND = 1e9  # for ood_distance, which is unbounded


def format_number(value: float) -> str:
    """Format a number with a point, at most six decimals and no exponent: ``0.5``, ``0.000001``, ``12.0``.

    :param value: clipped to ±1e9.
    :raises ValueError: if it is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    text = f"{min(max(float(value), -_BOUND), _BOUND):.{DECIMALS}f}".rstrip("0")
    if text.endswith("."):
        text += "0"
    return "0.0" if text == "-0.0" else text


def dumps(value: Any) -> str:
    """Serialise a value to ASCII JSON with fixed-point numbers.

    :raises TypeError: if it is not JSON.
    """
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value)
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(k))}:{dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    raise TypeError(f"{type(value).__name__} is not JSON")
