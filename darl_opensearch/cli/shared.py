"""Options and arguments that several commands have."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from darl_opensearch.settings import setting
from darl_opensearch.spans import ago, parse_span

JSON: Any = setting(False, "Print one JSON object for machines.", flag="--json")
CLUSTER: Any = setting(..., "the cluster")
LOGIN: Any = setting(..., "the cluster, whose URL is given otherwise", without=("url",))
STREAM: Any = setting("darl-ood", "Name of the data stream.", env="DARL_OOD_STREAM")

bundle_argument = click.argument(
    "bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE"
)


def parse_since(text: str) -> datetime | None:
    """Read ``--since``: a span before now, or a date.

    :raises ValueError: for anything else.
    """
    if (span := parse_span(text)) is not None:
        return ago(span)
    from darl_opensearch.ood.record import parse_timestamp

    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a span (30m, 12h, 7d, 4w) nor a date (2026-03-01).") from None
