"""How a value from somebody's file stands in a message."""

from __future__ import annotations


def short(value: object) -> str:
    """Quote a value from a file; a message stays one line of a usual length whatever it is.

    :return: its representation, or the first 80 characters of it.
    """
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
