"""``darl monitor``: the OOD log's report."""

from __future__ import annotations

import dataclasses
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
from darl_opensearch.cluster.switching import PipelineHistory
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, GateRefused, UsageError
from darl_opensearch.io.writing import write_file
from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.ood.record import format_timestamp
from darl_opensearch.settings import FilePath, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.monitor.figures import ReleaseMark
    from darl_opensearch.monitor.web import Traffic
    from darl_opensearch.ood.store import OodStore

# Options that do not change the page, are named in any case, or say who asks.
_NOT_OF_PAGE = {"html", "web", "port", "as_json", "fail_on_drift", "spool", "stream", "bundle", "password_file"} | {
    field.name for field in dataclasses.fields(ClusterOptions)
}


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
    until: datetime | None = setting(
        None, "Read traffic until then, written likewise.  [default: now]", metavar="SPAN", parse=parse_since
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
    place: PipelineHistory = setting(..., "the pipeline of the cluster at --url whose releases the page shows"),
    html: FilePath | None = setting(
        None,
        "Also write the page to this file: self-contained, with charts and the strangest queries and items.",
        env="DARL_MONITOR_HTML",
    ),
    web: bool = setting(
        False, "Serve the page on this machine until Ctrl-C, with filters; no drift tests of features are made."
    ),
    model: str | None = setting(None, "Let the page show this version only.", metavar="'NAME VERSION'"),
    slice_name: str | None = setting(
        None, "Let the page show this slice only; '' for traffic without one.", flag="--slice"
    ),
    at: datetime | None = setting(
        None,
        "Let the page look into the window at this time.  [default: the highest drift]",
        metavar="TIME",
        parse=parse_since,
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
    copied to a temporary file first. The page's filters apply to overview in the output of --json, too.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.connect import connect
    from darl_opensearch.monitor import report
    from darl_opensearch.monitor.drift import drift as run_drift
    from darl_opensearch.monitor.figures import Filters, LogSource
    from darl_opensearch.monitor.page import render_monitor_page
    from darl_opensearch.monitor.render import render_report
    from darl_opensearch.monitor.render_drift import render_drift
    from darl_opensearch.monitor.web import create_monitor_app, write_query
    from darl_opensearch.ood.spool import Spool
    from darl_opensearch.ood.store import SpoolStore, StreamStore
    from darl_opensearch.web.serve import serve_page

    if web and (html or as_json or fail_on_drift):
        raise UsageError("--web serves the page, and does nothing else", todo="omit --html, --json and --fail-on-drift")
    shown = html is not None or as_json or web
    if not shown and any(value is not None for value in (model, slice_name, at)):
        raise UsageError("--model, --slice and --at filter the page", todo="add --html, --web or --json")
    chosen_until, until = until, until or datetime.now(UTC)
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
        if shown:
            traffic = _traffic(stack, store, since, until, drift, opened, counters)
            if isinstance(store, StreamStore):
                traffic = _with_releases(traffic, Cluster.open(cluster), place)
                records: tuple[str, ...] = ("--url", cluster.where, "--stream", stream)
            else:
                records = ("--spool", str(spool))
            source = LogSource(records, str(bundle) if bundle else None, _given(ctx))
            traffic = dataclasses.replace(traffic, source=source)
            live = web and isinstance(store, SpoolStore)
            filters = Filters(since, chosen_until if live else until, model, slice_name, at, top)
            with progress_line("figures") as line:
                found = traffic.read(filters, line.report)
            if web:
                app = create_monitor_app(traffic, dataclasses.replace(filters, model=None, slice=None, window=None))
                opening = write_query(filters)  # in the URL, where the page's form can change it
                serve_page(app, port, lambda url: note(f"{url}{opening} (press Ctrl-C when done)"))
                return
        with progress_line("counting") as line:
            result = report(store, since, until=until, top=top, counters=counters)
            line.report("drift")
            drifted = run_drift(store, opened, drift, since=since, until=until, texts=texts, report=line.report)
        if html is not None and found is not None:
            of_all = drifted if model is None and slice_name is None else None
            with progress_line("page") as line:
                page = render_monitor_page(
                    found, drift=of_all, grades=traffic.grades, source=traffic.source,
                    views=traffic.views(found, line.report),
                )  # fmt: skip
            write_file(html, page)  # never half a page
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


def _given(ctx: click.Context) -> tuple[str, ...]:
    """List the options of this command as they were given, for one that makes another page of the same traffic."""
    words: list[str] = []
    for option in ctx.command.params:
        name = str(option.name)
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE and name not in _NOT_OF_PAGE:
            value = ctx.params[name]
            text = format_timestamp(value) if isinstance(value, datetime) else str(value)
            words += [option.opts[-1]] if value is True else [option.opts[-1], text]
    return tuple(words)


def _with_releases(traffic: Traffic, cluster: Cluster, place: PipelineHistory) -> Traffic:
    """Add the release history, or why it could not be read."""
    try:
        return dataclasses.replace(traffic, releases=read_releases(cluster, place))
    except ClusterError as err:
        note(f"warning: the release history could not be read, and the page has no releases: {err}")
        return dataclasses.replace(traffic, releases_unread=str(err))


def read_releases(cluster: Cluster, place: PipelineHistory) -> list[ReleaseMark]:
    """Read a pipeline's releases, rollbacks and refusals, oldest first; those that were abandoned are left out.

    :raises ClusterError: if the history cannot be read.
    """
    from darl_opensearch.cluster.history import History
    from darl_opensearch.monitor.figures import ReleaseMark

    return [
        ReleaseMark(
            datetime.fromisoformat(event.finished or event.started),
            event.kind if event.state == "done" else f"{event.kind}, {event.state}", event.to.label,
            bool(event.gate.get("passed")) if event.gate else None, event.reason or event.note,
        )
        for event in History(cluster, place.pipeline, place.history).events() if event.state != "abandoned"
    ]  # fmt: skip


def _texts_of(cluster: ClusterOptions, index: str) -> Callable[[Sequence[str]], Mapping[str, str]]:
    """Make the look-up of item texts in an index."""
    from darl_opensearch.connect import connect
    from darl_opensearch.ood.store import join_texts

    client, where = connect(cluster), cluster.where
    return lambda ids: join_texts(client, index, ids, where=where).texts
