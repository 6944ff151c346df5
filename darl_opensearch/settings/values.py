"""Values against what is declared of them: kind, bounds and choices."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.settings.fields import Declared

_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def convert(declared: Declared, value: Any, label: str) -> Any:
    """Check a value, and make it of the kind that is declared.

    :param label: what the setting is called in an error.
    :raises UsageError: when it is of another kind, out of range, or none of the choices.
    """
    if value is None and declared.optional:
        return None
    if not declared.many:
        return _convert(declared, value, f"{label} is")
    if not isinstance(value, list | tuple):
        raise UsageError(f"{label} is {value!r}, not a list", todo="write [ … ]")
    return tuple(_convert(declared, part, f"{label} holds") for part in value)


def _convert(declared: Declared, value: Any, clause: str) -> Any:
    kind = declared.kind
    if choices := declared.choices:
        if value not in choices or type(value) is not type(choices[0]):
            raise UsageError(f"{clause} {value!r}", todo=f"choose {list_choices(choices)}")
        return value
    if declared.is_mapping:
        if not isinstance(value, Mapping):
            raise UsageError(f"{clause} {value!r}, not a table", todo="write { key = value }")
        return dict(value)
    if declared.holds_tables and not isinstance(value, kind):
        return kind.read(value)
    if kind is Path and isinstance(value, str):
        value = Path(value)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _make_float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = name_kind(declared)
        if declared.field.secret:
            raise UsageError(f"{clause} not {wanted}", todo="correct the value, which is not shown here")
        article = "" if kind in (str, bool) else "a "
        raise UsageError(f"{clause} {value!r}, not {article}{wanted}", todo=declared.field.help or "correct the value")
    if bounds := declared.field.bounds:
        if not declared.field.holds(value) or math.isinf(value):
            raise UsageError(f"{clause} {value!r}", todo=f"give {bounds}")
    return value


def name_kind(declared: Declared) -> str:
    """Say what kind of value it is, as the docs do."""
    return (
        "table" if declared.is_mapping or declared.holds_tables else _KINDS.get(declared.kind, declared.kind.__name__)
    )


def list_choices(choices: Iterable[Any]) -> str:
    """List what may be chosen; an empty text can be left out."""
    *others, last = [str(choice) for choice in choices if choice != ""] + ["leave it empty"] * ("" in choices)
    return f"{', '.join(others)} or {last}" if others else last


def nearest(name: str, names: Iterable[str]) -> str:
    """Suggest the name closest to a misspelt one.

    :return: a clause for an error's ``todo``.
    """
    if not (names := sorted(names)):
        return "there are none"
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


def _make_float(value: int) -> float:
    """Make a float of a whole number, infinite where none is as large: every range refuses that."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
