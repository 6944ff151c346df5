"""``darl monitor``: what the OOD log says."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.cluster_options import cluster_options, stream_option
from darl_opensearch.cli.output import emit, json_option

if TYPE_CHECKING:
    from darl_opensearch.cluster.connect import ClusterOptions

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
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


@click.command()
@click.option(
    "--spool",
    envvar=["DARL_SPOOL", "DARL_OOD_LOG"],  # the second is what darl serve calls it
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Read this spool. With --url as well: read the cluster, and the spool's losses.",
)
@cluster_options
@stream_option
@click.option("--since", callback=_since, metavar="SPAN", help="From when: 30m, 12h, 7d, 4w or a date. All by default.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Strangest queries to name.")
@json_option
@click.pass_context
def cli(
    ctx: click.Context,
    spool: Path | None,
    cluster: ClusterOptions,
    stream: str,
    since: datetime | None,
    top: int,
    as_json: bool,
) -> None:
    """Report out-of-distribution traffic from the log.

    Reads a spool with --spool, else the data stream of the cluster at --url. Of traffic like the model's
    calibration data a share alpha is expected to be OOD; the interval is clustered by query.
    """
    from darl_opensearch.cluster.connect import connect, without_secrets
    from darl_opensearch.monitor.render import render
    from darl_opensearch.monitor.report import report
    from darl_opensearch.ood.spool import Spool
    from darl_opensearch.ood.store import SpoolStore, StreamStore

    url_given = ctx.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
    if spool is not None and not url_given:
        with SpoolStore(spool) as store:
            result = report(store, since, top=top)
    else:
        counters = None
        if spool is not None:
            with Spool.open(spool) as losses:
                counters = losses.counters()
        where = without_secrets(cluster.url)
        result = report(StreamStore(connect(cluster), stream=stream, where=where), since, top=top, counters=counters)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    text = "" if as_json else render(result, width=width, terminal=terminal)
    emit(result.to_json(), as_json=as_json, text=text)
