"""Parsing of single fields: texts, ids and grades, and the errors for invalid ones."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from darl_opensearch.errors import InputError, short
from darl_opensearch.text import MAX_QUERY_CHARS


def parse_text(row: Mapping[str, Any], name: str, where: str, *, todo: str, within: str = "") -> str:
    """Read a required text.

    :param within: place of the field in the row, prefixed to messages.
    :return: the text, not stripped.
    :raises InputError: if it is empty or not text.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{within}field {name!r} is empty or not text", where=where, todo=todo)
    return value


def parse_query(row: Mapping[str, Any], where: str) -> str:
    """Read and strip a query's text.

    :raises InputError: if it is empty, not text, or far longer than any search.
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
    """Read an optional id or name as text.

    :return: the text, ``"0"`` for 0; ``""`` if missing.
    :raises InputError: if it is neither text nor a whole number.
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
    """Read a required id.

    :raises InputError: if it is missing, or neither text nor a whole number.
    """
    if not (value := parse_id(row, name, where)):
        raise InputError(f"field {name!r} is missing or empty", where=where, todo="fill it, or drop the line")
    return value


def as_whole(value: object) -> int | None:
    """Return a whole number, which some programs write as ``2.0``; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse_whole_grade(row: Mapping[str, Any], k: int, where: str) -> int:
    """Read a numeric grade; the digits of one are read as well, which some programs quote.

    :raises InputError: if it is not a whole number in ``0..k-1``.
    """
    value = row.get("grade")
    if isinstance(value, str) and len(value) < 10 and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < k:
        raise off_scale("grade", value, k - 1, where, todo="correct the line, or add the grade to [grades]")
    return value


def off_scale(name: str, value: object, highest: int, where: str, *, todo: str) -> InputError:
    """Make the error for a value that is not a grade of the scale."""
    return InputError(f"field {name!r} is {short(value)}, not a whole number in 0..{highest}", where=where, todo=todo)


def unknown_item(
    item_id: object, where: str, *, todo: str = "add it to the items, or drop the line", known: Container[str] = ()
) -> InputError:
    """Make the error for an unknown item.

    :param known: ids of the items, to say which one was probably meant.
    """
    todo = like_known(item_id, known) or todo
    return InputError(f"item {short(item_id)} is not in the items", where=where, todo=todo)


def like_known(value: object, known: Container[str]) -> str:
    """Say what to do about an id that differs from a known one only by how a program wrote it.

    Spreadsheets and data frames turn ids into numbers: ``1993197`` into ``1993197.0``, and ``007`` into ``7``.

    :return: ``""`` if there is none.
    """
    text = str(value)
    number = text.removesuffix(".0")
    for other in (number, f"{text}.0", number.lstrip("0"), *(number.zfill(n) for n in range(len(number) + 1, 16)),
                  text.strip(), text.casefold(), text.upper()):  # fmt: skip
        if other and other != text and other in known:
            return (f"there is {short(other)}: one of the two files was saved with ids that a program had changed, "
                    "for example into numbers; save it again with ids as text")  # fmt: skip
    return ""


def empty_file(path: object, what: str) -> InputError:
    """Make the error for a file without lines.

    :param what: name of a line, singular.
    """
    return InputError(f"the file has no {what}s", where=str(path), todo="write one JSON object per line")
