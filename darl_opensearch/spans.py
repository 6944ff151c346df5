"""Spans of time as options and configurations write them: ``30m``, ``12h``, ``7d``, ``4w``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_span(text: str) -> timedelta | None:
    """Read a span.

    :param text: up to six digits, then ``m``, ``h``, ``d`` or ``w``.
    :return: the span; None: the text is none.
    """
    found = _SPAN.fullmatch(text)
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None


def ago(span: timedelta | None) -> datetime | None:
    """Find the time that lies a span before now.

    :param span: the span; None: no bound.
    :return: the time, in UTC; None: from the beginning, as for a span that is longer than the calendar.
    """
    if span is None:
        return None
    try:
        return datetime.now(UTC) - span
    except OverflowError:
        return None
