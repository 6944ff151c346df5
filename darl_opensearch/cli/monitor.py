"""``darl monitor``: the OOD log's report."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import CLUSTER, JSON, STREAM, parse_since
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import GateRefused
from darl_opensearch.io.writing import write_file
from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.settings import FilePath, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.monitor import MonitorReport
    from darl_opensearch.monitor.drift import DriftReport
    from darl_opensearch.ood.store import OodStore


@click.command()
@with_options
@click.pass_context
def cli(
    ctx: click.Context,
    spool: FilePath | None = setting(
        None,
        "Read this spool. With --url: read the cluster, and the spool only for dropped records.",
        env=("DARL_SPOOL", "DARL_OOD_LOG"),
    ),
    cluster: ClusterOptions = CLUSTER,
    stream: str = STREAM,
    since: datetime | None = setting(
        None, "Read traffic since then: 30m, 12h, 7d, 4w or a date.  [default: all]", metavar="SPAN", parse=parse_since
    ),
    top: int = setting(10, "Number of queries to list, most OOD first.", least=0),
    bundle: InputFolder | None = setting(
        None,
        "Also test the traffic's features against the reference sample in this bundle.",
        env="DARL_MONITOR_BUNDLE",
    ),
    drift: DriftConfig = setting(..., "the drift tests"),
    index: str | None = setting(
        None, "Item index of the cluster at --url, for item texts that were not logged.", env="DARL_MONITOR_INDEX"
    ),
    html: FilePath | None = setting(
        None,
        "Also write a self-contained HTML page with charts to this file.",
        env="DARL_MONITOR_HTML",
    ),
    fail_on_drift: bool = setting(
        False, "Exit with 3 if the latest tested window has drifted.", env="DARL_MONITOR_FAIL_ON_DRIFT"
    ),
    as_json: bool = JSON,
) -> None:
    """Report out-of-distribution traffic from the log, and test it for drift.

    Reads the spool at --spool, otherwise the data stream of the cluster at --url. On traffic like the model's
    calibration data the expected OOD share is alpha; intervals are clustered by query. Drift is tested per window: the
    OOD share against alpha, and with --bundle also the features, by MMD and a classifier.
    """
    from darl_opensearch.connect import connect
    from darl_opensearch.monitor.page import render_monitor_page
    from darl_opensearch.monitor.render import render_report
    from darl_opensearch.monitor.render_drift import render_drift
    from darl_opensearch.ood.spool import Spool
    from darl_opensearch.ood.store import SpoolStore, StreamStore

    texts = _texts_of(cluster, index) if index else None
    url_given = ctx.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
    if spool is not None and not url_given:
        with SpoolStore(spool) as store:
            result, drifted = _read(store, since, top, None, bundle, drift, texts)
    else:
        counters = None
        if spool is not None:
            with Spool.open(spool) as losses:
                counters = losses.counters()
        where = cluster.where
        stream_store = StreamStore(connect(cluster), stream=stream, where=where)
        result, drifted = _read(stream_store, since, top, counters, bundle, drift, texts)
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
            f"the latest window has drifted: {drifted.reasons[0]}", where=result.store, todo="run darl cycle"
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
    """Read both reports over the same period."""
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
    """Make the look-up of item texts in an index."""
    from darl_opensearch.connect import connect
    from darl_opensearch.ood.store import join_texts

    client, where = connect(cluster), cluster.where
    return lambda ids: join_texts(client, index, ids, where=where).texts
