"""The monitor as one self-contained HTML file, without network, scripts or fonts."""

from __future__ import annotations

from collections.abc import Sequence

from darl_opensearch.monitor.charts import p_chart, share_chart
from darl_opensearch.monitor.drift.report import ALL, DriftReport, WindowReport
from darl_opensearch.monitor.render import describe_not_reranked, format_percent, format_share, shorten
from darl_opensearch.monitor.render_drift import format_span, format_tests
from darl_opensearch.monitor.report import ModelReport, MonitorReport
from darl_opensearch.web.markup import escaped, figure, table
from darl_opensearch.web.page import page

_STYLE = """\
svg { font: 12px system-ui, sans-serif; fill: CanvasText; }
.grid { stroke: CanvasText; stroke-opacity: .15; } .line { fill: none; stroke: CanvasText; stroke-opacity: .35; }
.level { stroke: CanvasText; stroke-dasharray: 6 4; }
.calm { fill: #2a7ab0; stroke: #2a7ab0; } .drift { fill: #d0402b; stroke: #d0402b; }
.alarm { border-left: .3rem solid #d0402b; padding-left: .75rem; }
.quiet { border-left: .3rem solid #2a7ab0; padding-left: .75rem; }
"""


def render_monitor_page(report: MonitorReport, drift: DriftReport) -> str:
    """Render the page.

    :param drift: drift tests of the same records.
    """
    title = "OOD log and drift"
    body = [f"<h1>{title}</h1>", f"<p>{_about(report, drift)}</p>", _decision(drift)]
    if report.empty:
        body.append("<p>No records in this period.</p>")
    for model in report.models:
        windows = [
            w for w in drift.windows if (w.model, w.version, w.alpha) == (model.model, model.version, model.alpha)
        ]
        body += _model(model, windows, drift.one_in)
    if report.counters:
        rows = [(name, f"{count:,}") for name, count in report.counters.items()]
        body += ["<h2>Spool</h2>", table("Counters", ("counter", "count"), rows)]
    return page(f"{title}: {report.store}", body, style=_STYLE, svg=True)


def _about(report: MonitorReport, drift: DriftReport) -> str:
    since = f"from {report.since:%Y-%m-%d %H:%M}" if report.since else "from the first record"
    against = f"Features are compared with the reference of {escaped(drift.bundle)}." if drift.bundle else ""
    return (
        f"{escaped(report.store)}, {since} to {report.until:%Y-%m-%d %H:%M} UTC. "
        "Intervals are 95 %, clustered by query. "
        f"A window without drift alarms with a probability of at most 1 in {drift.one_in:,}. {against} "
        "Each model version has its own line."
    )


def _decision(drift: DriftReport) -> str:
    if drift.start_cycle:
        reasons = "".join(f"<li>{escaped(reason)}</li>" for reason in drift.reasons)
        return f'<div class="alarm"><p>{drift.decision}</p><ul>{reasons}</ul></div>'
    return f'<div class="quiet"><p>{drift.decision}</p></div>'


def _model(model: ModelReport, windows: Sequence[WindowReport], one_in: int) -> list[str]:
    name = f"{model.model} {model.version}"
    value, interval = format_share(model.share_ood)
    parts = [
        f"<h2>{escaped(name)}</h2>",
        f"<p>{model.requests:,} requests, {model.queries:,} queries, {model.pairs:,} pairs, "
        f"{model.first:%Y-%m-%d %H:%M} to {model.last:%Y-%m-%d %H:%M} UTC. Share OOD {value}"
        f"{f' ({interval})' if interval else ''}, expected {format_percent(model.alpha)}: {model.verdict}.</p>",
    ]
    if model.not_reranked:
        parts.append(f'<div class="alarm"><p>{escaped(describe_not_reranked(model))}.</p></div>')
    if windows:
        parts.append(figure(f"Share of OOD pairs, {name}, each query once", share_chart(windows)))
        if any(w.tests for w in windows):
            parts.append(figure(f"p-values, {name}, Holm-adjusted within each window", p_chart(windows, one_in)))
        parts += [_windows(windows), _slice_tests(windows), _notes(windows)]
    if any(part.name for part in model.slices):
        rows = [(shorten(s.name) or "(none)", f"{s.requests:,}", *format_share(s.share_ood)) for s in model.slices]
        parts.append(table("Slices", ("slice", "requests", "share OOD", "95 % interval"), rows))
    if model.strangest:
        queries = [
            (shorten(q.query), f"{q.requests:,}", f"{q.candidates:,}", format_percent(q.share_ood),
             f"{q.max_ood_distance:.2f}")
            for q in model.strangest
        ]  # fmt: skip
        parts.append(table("Most OOD queries", ("query", "requests", "pairs", "share OOD", "distance"), queries))
    return [part for part in parts if part]


def _windows(windows: Sequence[WindowReport]) -> str:
    rows = [
        (format_span(w), f"{w.requests:,}", f"{w.queries:,}", *format_share(w.share_ood), *format_tests(w), w.verdict)
        for w in windows
    ]
    head = ("window (UTC)", "requests", "queries", "share OOD", "95 % interval", "p", "MMD p", "AUC", "p", "verdict")
    return table("Windows", head, rows)


def _slice_tests(windows: Sequence[WindowReport]) -> str:
    rows = [
        (format_span(w), shorten(t.slice or ""), t.test, f"{t.queries:,}", f"{t.value:.4f}", f"{t.p:.2g}",
         f"{t.p_holm:.2g}", "drift" if t.drift else "")
        for w in windows for t in w.tests if t.slice is not ALL
    ]  # fmt: skip
    head = ("window (UTC)", "slice", "test", "queries", "value", "p", "Holm", "")
    return table("Tests of slices", head, rows, names=3) if rows else ""


def _notes(windows: Sequence[WindowReport]) -> str:
    notes = [f"<li>{escaped(format_span(w))}: {escaped(note)}</li>" for w in windows for note in w.notes]
    return f"<p>What could not be tested:</p><ul>{''.join(notes)}</ul>" if notes else ""
