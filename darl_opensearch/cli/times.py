"""Options that name a time."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def since_callback(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Read ``--since``.

    :param ctx: click's context.
    :param param: the option.
    :param value: a span, a date, or None.
    :return: the time; None: from the beginning.
    :raises click.BadParameter: for anything else.
    """
    if value is None:
        return None
    if span := re.fullmatch(r"(\d{1,6})([mhdw])", value):
        with contextlib.suppress(OverflowError):  # before the first year: that is from the beginning
            return datetime.now(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})
        return None
    from darl_opensearch.ood.record import parse_timestamp

    try:
        return parse_timestamp(value)
    except (ValueError, OverflowError):
        message = f"{value!r} is neither a span (30m, 12h, 7d, 4w) nor a date (2026-03-01)."
        raise click.BadParameter(message, ctx, param) from None
