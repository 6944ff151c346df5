"""The OOD report as text: tables on a terminal, otherwise aligned plain text."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from darl_opensearch.errors import one_line
from darl_opensearch.monitor.report import ModelReport, MonitorReport
from darl_opensearch.stats.shares import Share

_VERDICTS = {
    "above": "ABOVE the calibrated rate; see the most OOD queries",
    "below": "below; the traffic is closer to the training set than the calibration traffic was",
    "as expected": "as expected",
    "unknown": "too few queries",
}
LOSS_TEXT = {
    "dropped_queue": "requests dropped because the disk could not keep up",
    "dropped_error": "requests that could not be written",
    "evicted": "records deleted unsent because the spool was full",
    "evicted_dead_letters": "dead letters deleted because the spool was full",
    "stored_dead_letters": "records rejected by the cluster (darl ship --dead-letters shows why)",
}


def render_report(report: MonitorReport, *, width: int | None = None, terminal: bool = False) -> str:
    """Render a report as text, without a final line break.

    :param width: columns; 200 if None.
    """
    console = new_console(width, terminal)
    since = f"since {report.since:%Y-%m-%d %H:%M} UTC" if report.since else "all records"
    console.print(f"OOD log: {escape(report.store)} ({since})")
    if report.empty:
        _print_empty(console, report)
    for model in report.models:
        _print_model(console, model, terminal)
    _print_counters(console, report)
    return read_console(console)


def new_console(width: int | None, terminal: bool) -> Console:
    """Make a console that collects its output for :func:`read_console`.

    :param width: columns; 200 if None.
    """
    return Console(
        file=io.StringIO(), force_terminal=terminal, no_color=not terminal, width=width or 200, highlight=False,
        soft_wrap=not terminal,
    )  # fmt: skip


def read_console(console: Console) -> str:
    """Return a console's output, without trailing blanks and final line break."""
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return "\n".join(line.rstrip() for line in text.rstrip("\n").splitlines())


def _print_empty(console: Console, report: MonitorReport) -> None:
    console.print("No records" + (" in this period." if report.since else " yet."))
    if report.counters.get("shipped"):
        console.print("All records of this spool were shipped: read them with --url instead of --spool.")
        return
    if report.since:
        console.print("Try an earlier --since, or check that searches are logged:")
    console.print("darl serve --ood-log PATH, darl search and Reranker(bundle, ood_log=PATH) write records;")
    console.print("darl ship --spool PATH --url URL sends them to a cluster.")


def _print_model(console: Console, model: ModelReport, terminal: bool) -> None:
    console.print()
    console.print(f"[bold]{escape(model.model)} {escape(model.version)}[/bold]", end="")
    console.print(f"  {model.first:%Y-%m-%d %H:%M} to {model.last:%Y-%m-%d %H:%M} UTC")
    median = "" if model.latency_ms is None else f", median {model.latency_ms:.1f} ms"
    console.print(f"{model.requests:,} requests, {model.queries:,} queries, {model.pairs:,} pairs{median}")
    if model.not_reranked:
        console.print(f"[red]{escape(describe_not_reranked(model))}[/red]")
    colour = {"above": "red", "below": "yellow"}.get(model.verdict, "green")
    console.print(
        f"share OOD [{colour}]{_share(model.share_ood)}[/{colour}],"
        f" expected {format_percent(model.alpha)}: {_VERDICTS[model.verdict]}"
    )
    weighted = _share(model.share_ood_weighted)
    console.print(f"  weighted estimate from {model.pair_records:,} logged pairs: {weighted}")
    if len(model.slices) > 1 or any(part.name for part in model.slices):
        table = make_table(terminal, "slice", "requests", "share OOD", "95 % interval", "")
        for part in model.slices:
            value, interval = format_share(part.share_ood)
            mark = part.share_ood.against(model.alpha)
            table.add_row(
                escape(shorten(part.name)) or "(none)", f"{part.requests:,}", value, interval,
                mark if mark in ("above", "below") else "",
            )  # fmt: skip
        console.print(table)
    if model.strangest:
        table = make_table(terminal, "most OOD queries", "requests", "pairs", "share OOD", "distance")
        for query in model.strangest:
            table.add_row(
                escape(shorten(query.query)), f"{query.requests:,}", f"{query.candidates:,}",
                format_percent(query.share_ood), f"{query.max_ood_distance:.2f}",
            )  # fmt: skip
        console.print(table)


def describe_not_reranked(model: ModelReport) -> str:
    """Say how many searches were not reranked, and what to look at; for a model with any."""
    share = format_percent(model.not_reranked / (model.not_reranked + model.requests))
    return (
        f"{model.not_reranked:,} searches NOT reranked ({share} of those logged): check the scorer, the model's state "
        "and the node's log"
    )


def _print_counters(console: Console, report: MonitorReport) -> None:
    if not report.counters:
        return
    console.print()
    shipped = report.counters.get("shipped", 0) + report.counters.get("already_there", 0)
    waiting = report.counters.get("stored_records", 0)
    size = report.counters.get("stored_bytes", 0) / 1e6
    sent = f"{shipped:,} records shipped, " if shipped else ""
    console.print(f"spool: {sent}{waiting:,} {'waiting' if shipped else 'records'}, {size:.1f} MB")
    for name, value in report.losses.items():
        console.print(f"  [red]{value:,}[/red] {LOSS_TEXT[name]}")


def make_table(terminal: bool, *columns: str) -> Table:
    """Make an empty table; without a terminal it is aligned plain text.

    :param *columns: headings; the first column is left-aligned, the others right.
    """
    table = Table(box=box.SIMPLE_HEAD if terminal else None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 or not column else "right", no_wrap=True)
    return table


def _share(share: Share) -> str:
    value, interval = format_share(share)
    return f"{value} ({interval})" if interval else value


def format_share(share: Share) -> tuple[str, str]:
    """Format a share and its interval: ``5.1 %`` and ``4.0 % to 6.4 %``; if missing, a dash and ``""``."""
    if share.value is None:
        return "–", ""
    if share.low is None or share.high is None:
        return format_percent(share.value), ""
    return format_percent(share.value), f"{format_percent(share.low)} to {format_percent(share.high)}"


def format_percent(value: float) -> str:
    """Format a share in percent: ``5.1 %``."""
    return f"{100 * value:.1f} %"


def shorten(text: str, limit: int = 60) -> str:
    """Shorten text to one line that is safe to print."""
    line = one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"
