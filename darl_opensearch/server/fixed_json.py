"""JSON for ML Commons: fixed-point numbers, ASCII only.

Its cohere post-process function casts ``relevance_score`` to a Java ``Double``; a number without a point becomes an
Integer and one with many digits a BigDecimal, and either fails the search. Its HTTP client decodes UTF-8 chunk by
chunk, which breaks characters at chunk boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

DECIMALS = 6
_BOUND = 1e9  # for ood_distance, which is unbounded
_quote_key = lru_cache(1024)(encode_basestring_ascii)


class Json(str):
    """Text that is JSON already."""

    __slots__ = ()


def format_number(value: float) -> str:
    """Format a number with a point, at most six decimals and no exponent: ``0.5``, ``0.000001``, ``12.0``.

    :param value: clipped to ±1e9.
    :raises ValueError: if it is not finite.
    """
    if not -_BOUND <= value <= _BOUND:
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        value = math.copysign(_BOUND, value)
    text = f"{value:.{DECIMALS}f}".rstrip("0")
    if text.endswith("."):
        text += "0"
    return "0.0" if text == "-0.0" else text


def dumps(value: Any) -> str:
    """Serialise a value to ASCII JSON with fixed-point numbers.

    :raises TypeError: if it is not JSON.
    """
    if isinstance(value, str):
        return value if isinstance(value, Json) else encode_basestring_ascii(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join([f"{_quote_key(str(key))}:{dumps(entry)}" for key, entry in value.items()]) + "}"
    raise TypeError(f"{type(value).__name__} is not JSON")
