"""JSON that ML Commons reads without a fault.

Its cohere post-process casts ``relevance_score`` to a Java ``Double``: a number without a point is an
Integer there, one with many digits a BigDecimal, and both end the search. Its HTTP client decodes UTF-8
chunk by chunk, so that a character on a border breaks. Hence: fixed-point numbers, ASCII.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

DECIMALS = 6
_BOUND = 1e9  # an ood_distance can be any size; beyond this it only says "very far"


def fixed(value: float) -> str:
    """Print a number with a point and at most six decimals, never an exponent.

    :param value: a finite number; beyond a thousand million it is cut there.
    :return: such as ``0.5``, ``0.000001`` or ``12.0``; at most 17 characters.
    :raises ValueError: when it is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    text = f"{min(max(float(value), -_BOUND), _BOUND):.{DECIMALS}f}".rstrip("0")
    if text.endswith("."):
        text += "0"
    return "0.0" if text == "-0.0" else text


def dumps(value: Any) -> str:
    """Render a value as ASCII JSON with fixed-point numbers.

    :param value: dicts, lists, tuples, strings, numbers, booleans and None.
    :raises TypeError: for anything else.
    """
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value)
    if isinstance(value, float):
        return fixed(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(k))}:{dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    raise TypeError(f"{type(value).__name__} is not JSON")
