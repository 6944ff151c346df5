"""``darl monitor``: the OOD log's report."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, JSON, STREAM, parse_since
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import GateRefused, UsageError
from darl_opensearch.io.writing import write_file
from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.settings import FilePath, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.monitor.web import Traffic
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
        "Also write the page to this file: self-contained, with charts and the strangest queries and items.",
        env="DARL_MONITOR_HTML",
    ),
    web: bool = setting(
        False, "Serve the page on this machine until Ctrl-C, with filters; no drift tests of features are made."
    ),
    port: int = setting(
        8767, "Port of the page, on 127.0.0.1; 0: any free port.", least=0, most=65535, env="DARL_MONITOR_PORT"
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

    The page opens at the window of highest drift. A spool keeps its figures as it is written; records of a cluster are
    copied to a temporary file first.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.connect import connect
    from darl_opensearch.monitor import report
    from darl_opensearch.monitor.drift import drift as run_drift
    from darl_opensearch.monitor.figures import Filters
    from darl_opensearch.monitor.page import render_monitor_page
    from darl_opensearch.monitor.render import render_report
    from darl_opensearch.monitor.render_drift import render_drift
    from darl_opensearch.monitor.web import create_monitor_app
    from darl_opensearch.ood.spool import Spool
    from darl_opensearch.ood.store import SpoolStore, StreamStore
    from darl_opensearch.web.serve import serve_page

    if web and (html or as_json or fail_on_drift):
        raise UsageError("--web serves the page, and does nothing else", todo="omit --html, --json and --fail-on-drift")
    until = datetime.now(UTC)
    texts = _texts_of(cluster, index) if index else None
    url_given = ctx.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
    opened = Bundle.open(bundle) if bundle else None
    with ExitStack() as stack:
        store: OodStore
        counters = None
        if spool is not None and not url_given:
            store = stack.enter_context(SpoolStore(spool))
        else:
            if spool is not None:
                with Spool.open(spool) as losses:
                    counters = losses.counters()
            store = StreamStore(connect(cluster), stream=stream, where=cluster.where)
        found = None
        if web or html is not None or as_json:
            traffic = _traffic(stack, store, since, until, drift, opened, counters)
            filters = Filters(since=since, until=None if web and isinstance(store, SpoolStore) else until, top=top)
            with progress_line("figures") as line:
                found = traffic.read(filters, line.report)
            if web:
                serve_page(
                    create_monitor_app(traffic, filters), port, lambda url: note(f"{url} (press Ctrl-C when done)")
                )
                return
        with progress_line("counting") as line:
            result = report(store, since, until=until, top=top, counters=counters)
            line.report("drift")
            drifted = run_drift(store, opened, drift, since=since, until=until, texts=texts, report=line.report)
    if html is not None and found is not None:
        grades = opened.card.scale.names if opened else ()
        write_file(html, render_monitor_page(found, drift=drifted, grades=grades))  # never half a page
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    text = ""
    if not as_json:
        parts = (
            render_report(result, width=width, terminal=terminal),
            render_drift(drifted, width=width, terminal=terminal),
        )
        text = "\n\n".join(part for part in parts if part)
    overview = {"overview": found.to_json()} if found is not None else {}
    emit(result.to_json() | {"drift": drifted.to_json()} | overview, as_json=as_json, text=text)
    if fail_on_drift and drifted.start_cycle:
        raise GateRefused(
            f"the latest window has drifted: {drifted.reasons[0]}", where=result.store, todo="run darl cycle"
        )


def _traffic(
    stack: ExitStack, store: OodStore, since: datetime | None, until: datetime, config: DriftConfig,
    bundle: Bundle | None, counters: Mapping[str, int] | None,
) -> Traffic:  # fmt: skip
    """Find the records' spool; those of a cluster are copied to one that lasts as long as the stack."""
    from darl_opensearch.monitor.nearest import Nearest
    from darl_opensearch.monitor.web import Traffic
    from darl_opensearch.ood.rollup import copy_to_spool
    from darl_opensearch.ood.store import SpoolStore

    grades, nearest = (bundle.card.scale.names, Nearest.of(bundle)) if bundle else ((), None)
    if isinstance(store, SpoolStore):
        return Traffic(Path(store.where), store.where, config, grades, nearest)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="darl-monitor-"))) / "records.sqlite"
    with progress_line("copying records") as line:
        copy_to_spool(store, path, since=since, until=until, report=line.report)
    return Traffic(path, store.where, config, grades, nearest, counters or {})


def _texts_of(cluster: ClusterOptions, index: str) -> Callable[[Sequence[str]], Mapping[str, str]]:
    """Make the look-up of item texts in an index."""
    from darl_opensearch.connect import connect
    from darl_opensearch.ood.store import join_texts

    client, where = connect(cluster), cluster.where
    return lambda ids: join_texts(client, index, ids, where=where).texts
