"""Options that name a time."""

from __future__ import annotations

from datetime import datetime

import click

from darl_opensearch.spans import ago, parse_span


def since_callback(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Read ``--since``.

    :param value: a span, a date, or None.
    :return: the time; None: from the beginning.
    :raises click.BadParameter: for anything else.
    """
    if value is None:
        return None
    if (span := parse_span(value)) is not None:
        return ago(span)
    from darl_opensearch.ood.record import parse_timestamp

    try:
        return parse_timestamp(value)
    except (ValueError, OverflowError):
        message = f"{value!r} is neither a span (30m, 12h, 7d, 4w) nor a date (2026-03-01)."
        raise click.BadParameter(message, ctx, param) from None
