"""Spans of time as options and configurations write them: ``30m``, ``12h``, ``7d``, ``4w``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_span(text: str) -> timedelta | None:
    """Parse a span: up to six digits, then ``m``, ``h``, ``d`` or ``w``; None if invalid."""
    match = _SPAN.fullmatch(text)
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None


def ago(span: timedelta | None) -> datetime | None:
    """Return the time, in UTC, that lies a span before now.

    None means no bound: for no span, and for one longer than the calendar.
    """
    if span is None:
        return None
    try:
        return datetime.now(UTC) - span
    except OverflowError:
        return None
