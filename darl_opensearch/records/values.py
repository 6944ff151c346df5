"""One value of a row: a text, an id or a grade, or the message that says why it is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darl_opensearch.errors import InputError, short
from darl_opensearch.text import MAX_QUERY_CHARS


def parse_text(row: Mapping[str, Any], name: str, where: str, *, todo: str, within: str = "") -> str:
    """Read a text that must be there.

    :param within: the part of the row that the field is in, to put before a message.
    :return: the text as it stands, with its blanks.
    :raises InputError: when it is empty or not text.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{within}field {name!r} is empty or not text", where=where, todo=todo)
    return value


def parse_query(row: Mapping[str, Any], where: str) -> str:
    """Read the text of a query.

    :return: the text without blanks around it.
    :raises InputError: when it is empty, not text, or far longer than anything that is searched.
    """
    text = parse_text(row, "query", where, todo="add the query's text")
    if len(text) > MAX_QUERY_CHARS:
        raise InputError(
            f"field 'query' has {len(text):,} characters, more than {MAX_QUERY_CHARS:,}",
            where=where,
            todo="use the text typed into the search box",
        )
    return text.strip()


def parse_id(row: Mapping[str, Any], name: str, where: str, *, within: str = "") -> str:
    """Read an id or a name that may be missing.

    :return: it as text, 0 as ``"0"``; ``""`` where there is none.
    :raises InputError: when it is neither text nor a whole number.
    """
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(
            f"{within}field {name!r} is {short(value)}, neither text nor a whole number",
            where=where,
            todo="write it as text",
        )
    return "" if isinstance(value, str) and not value.strip() else str(value)


def require_id(row: Mapping[str, Any], name: str, where: str) -> str:
    """Read an id that must be there.

    :raises InputError: when it is missing, or neither text nor a whole number.
    """
    if not (value := parse_id(row, name, where)):
        raise InputError(f"field {name!r} is missing or empty", where=where, todo="fill it, or drop the line")
    return value


def parse_whole_grade(row: Mapping[str, Any], k: int, where: str) -> int:
    """Read a grade that is written as a number of the scale.

    :raises InputError: when it is anything but a whole number in ``0..k-1``.
    """
    value = row.get("grade")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < k:
        raise off_scale("grade", value, k - 1, where, todo="correct the line, or add the grade to [grades]")
    return value


def off_scale(name: str, value: object, highest: int, where: str, *, todo: str) -> InputError:
    """Say that a value is no grade of the scale."""
    return InputError(f"field {name!r} is {short(value)}, not a whole number in 0..{highest}", where=where, todo=todo)


def unknown_item(item_id: object, where: str, *, todo: str = "add it to the items, or drop the line") -> InputError:
    """Say that an item is not among the items."""
    return InputError(f"item {short(item_id)} is not in the items", where=where, todo=todo)


def nothing_in(path: object, what: str) -> InputError:
    """Say that a file is empty.

    :param what: what it should hold, in the singular.
    """
    return InputError(f"the file has no {what}s", where=str(path), todo="write one JSON object per line")
