"""``darl monitor``: what the OOD log says."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.cluster_options import cluster_options, stream_option
from darl_opensearch.cli.output import emit, json_option, progress_line
from darl_opensearch.cli.times import since_callback
from darl_opensearch.errors import GateRefused
from darl_opensearch.io.writing import write_file

if TYPE_CHECKING:
    from darl_opensearch.connect import ClusterOptions
    from darl_opensearch.monitor import MonitorReport
    from darl_opensearch.monitor.drift import DriftConfig, DriftReport
    from darl_opensearch.ood.store import OodStore


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
@click.option(
    "--since", callback=since_callback, metavar="SPAN", help="From when: 30m, 12h, 7d, 4w or a date. All by default."
)
@click.option(
    "--top", type=click.IntRange(0), default=10, show_default=True, help="Number of most OOD queries to list."
)
@click.option(
    "--bundle",
    envvar="DARL_MONITOR_BUNDLE",
    show_envvar=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also test the features of its version's traffic against the reference in this bundle.",
)
@click.option(
    "--window",
    envvar="DARL_MONITOR_WINDOW",
    show_envvar=True,
    default="",
    metavar="SPAN|N",
    help="Test windows of this span (12h, 1d, 1w) or of N requests, each apart. All in one by default.",
)
@click.option(
    "--one-in",
    envvar="DARL_MONITOR_ONE_IN",
    show_envvar=True,
    type=click.IntRange(2, 1000),
    default=100,
    show_default=True,
    help="One false alarm in so many windows without drift.",
)
@click.option(
    "--min-queries",
    envvar="DARL_MONITOR_MIN_QUERIES",
    show_envvar=True,
    type=click.IntRange(10),
    default=30,
    show_default=True,
    help="Fewest queries that a test is made with.",
)
@click.option(
    "--index",
    envvar="DARL_MONITOR_INDEX",
    show_envvar=True,
    help="Index of the cluster at --url to take item texts from that were not logged.",
)
@click.option(
    "--html",
    envvar="DARL_MONITOR_HTML",
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a page with charts to this file; it needs neither network nor script.",
)
@click.option(
    "--fail-on-drift",
    is_flag=True,
    envvar="DARL_MONITOR_FAIL_ON_DRIFT",
    show_envvar=True,
    help="Exit with 3 when the latest window that was tested has drifted.",
)
@json_option
@click.pass_context
def cli(
    ctx: click.Context,
    spool: Path | None,
    cluster: ClusterOptions,
    stream: str,
    since: datetime | None,
    top: int,
    bundle: Path | None,
    window: str,
    one_in: int,
    min_queries: int,
    index: str | None,
    html: Path | None,
    fail_on_drift: bool,
    as_json: bool,
) -> None:
    """Report out-of-distribution traffic from the log, and test it for drift.

    Reads a spool with --spool, else the data stream of the cluster at --url. Of traffic like the model's
    calibration data a share alpha is expected to be OOD; the interval is clustered by query. Drift is tested
    window by window: the share against alpha, and with --bundle MMD and a classifier on features.
    """
    from darl_opensearch.connect import connect
    from darl_opensearch.io.urls import without_secrets
    from darl_opensearch.monitor.drift import DriftConfig
    from darl_opensearch.monitor.page import render_monitor_page
    from darl_opensearch.monitor.render import render_report
    from darl_opensearch.monitor.render_drift import render_drift
    from darl_opensearch.ood.spool import Spool
    from darl_opensearch.ood.store import SpoolStore, StreamStore

    config = DriftConfig(window=window, one_in=one_in, min_queries=min_queries)
    texts = _texts_of(cluster, index) if index else None
    url_given = ctx.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
    if spool is not None and not url_given:
        with SpoolStore(spool) as store:
            result, drifted = _read(store, since, top, None, bundle, config, texts)
    else:
        counters = None
        if spool is not None:
            with Spool.open(spool) as losses:
                counters = losses.counters()
        where = without_secrets(cluster.url)
        stream_store = StreamStore(connect(cluster), stream=stream, where=where)
        result, drifted = _read(stream_store, since, top, counters, bundle, config, texts)
    if html is not None:
        write_file(html, render_monitor_page(result, drifted))  # a web server beside us never shows half a page
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    text = ""
    if not as_json:
        parts = (
            render_report(result, width=width, terminal=terminal),
            render_drift(drifted, width=width, terminal=terminal),
        )
        text = "\n\n".join(part for part in parts if part)
    emit(result.to_json() | {"drift": drifted.to_json()}, as_json=as_json, text=text)
    if fail_on_drift and drifted.start_cycle:
        raise GateRefused(
            f"the latest window has drifted: {drifted.reasons[0]}", where=result.store, todo="start a cycle: darl cycle"
        )


def _read(
    store: OodStore,
    since: datetime | None,
    top: int,
    counters: Mapping[str, int] | None,
    bundle: Path | None,
    config: DriftConfig,
    texts: Callable[[Sequence[str]], Mapping[str, str]] | None,
) -> tuple[MonitorReport, DriftReport]:
    """Both reports, of the same span of time."""
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.monitor import report
    from darl_opensearch.monitor.drift import drift

    until = datetime.now(UTC)
    opened = Bundle.open(bundle) if bundle else None
    result = report(store, since, until=until, top=top, counters=counters)
    with progress_line("drift") as line:
        drifted = drift(store, opened, config, since=since, until=until, texts=texts, report=line.report)
    return result, drifted


def _texts_of(cluster: ClusterOptions, index: str) -> Callable[[Sequence[str]], Mapping[str, str]]:
    """What looks item texts up in an index of the cluster."""
    from darl_opensearch.connect import connect
    from darl_opensearch.io.urls import without_secrets
    from darl_opensearch.ood.store import join_texts

    client, where = connect(cluster), without_secrets(cluster.url)
    return lambda ids: join_texts(client, index, ids, where=where).texts
