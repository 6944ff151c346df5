"""The monitor as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Sequence

from darl_opensearch.html_page import escaped, figure, page, table
from darl_opensearch.monitor.charts import p_chart, share_chart
from darl_opensearch.monitor.drift.report import ALL, AUC, MMD, SHARE, DriftReport, WindowReport
from darl_opensearch.monitor.render import percent, share_cells, shorten
from darl_opensearch.monitor.render_drift import p_text, span, whole
from darl_opensearch.monitor.report import ModelReport, MonitorReport

_STYLE = """\
svg { font: 12px system-ui, sans-serif; fill: CanvasText; }
.grid { stroke: CanvasText; stroke-opacity: .15; } .line { fill: none; stroke: CanvasText; stroke-opacity: .35; }
.level { stroke: CanvasText; stroke-dasharray: 6 4; }
.calm { fill: #2a7ab0; stroke: #2a7ab0; } .drift { fill: #d0402b; stroke: #d0402b; }
.alarm { border-left: .3rem solid #d0402b; padding-left: .75rem; }
.quiet { border-left: .3rem solid #2a7ab0; padding-left: .75rem; }
"""


def render_page(report: MonitorReport, drift: DriftReport) -> str:
    """Write the page.

    :param drift: the drift tests of the same records.
    """
    title = "OOD log and drift"
    body = [f"<h1>{title}</h1>", f"<p>{_about(report, drift)}</p>", _decision(drift)]
    if report.empty:
        body.append("<p>There are no records of this time.</p>")
    for model in report.models:
        windows = [
            w for w in drift.windows if (w.model, w.version, w.alpha) == (model.model, model.version, model.alpha)
        ]
        body += _model(model, windows, drift.one_in)
    if report.counters:
        rows = [(name, f"{count:,}") for name, count in report.counters.items()]
        body += ["<h2>Spool</h2>", table("What was counted", ("counter", "count"), rows)]
    return page(f"{title}: {report.store}", body, style=_STYLE)


def _about(report: MonitorReport, drift: DriftReport) -> str:
    since = f"from {report.since:%Y-%m-%d %H:%M}" if report.since else "from its beginning"
    against = f"Features are compared with the reference of {escaped(drift.bundle)}." if drift.bundle else ""
    return (
        f"{escaped(report.store)}, {since} to {report.until:%Y-%m-%d %H:%M} UTC. "
        "Intervals are 95 %, clustered by query. "
        f"A window without drift alarms with a chance of at most 1 in {drift.one_in:,}. {against} "
        "Scores of two model versions are never drawn as one line."
    )


def _decision(drift: DriftReport) -> str:
    if drift.start_cycle:
        reasons = "".join(f"<li>{escaped(reason)}</li>" for reason in drift.reasons)
        return f'<div class="alarm"><p>The latest window has drifted: a cycle is due.</p><ul>{reasons}</ul></div>'
    said = "No window could be tested." if drift.latest is None else "The latest window tested has not drifted."
    return f'<div class="quiet"><p>{said}</p></div>'


def _model(model: ModelReport, windows: Sequence[WindowReport], one_in: int) -> list[str]:
    name = f"{model.model} {model.version}"
    value, interval = share_cells(model.share_ood)
    parts = [
        f"<h2>{escaped(name)}</h2>",
        f"<p>{model.requests:,} requests, {model.queries:,} queries, {model.pairs:,} pairs, "
        f"{model.first:%Y-%m-%d %H:%M} to {model.last:%Y-%m-%d %H:%M} UTC. Share OOD {value}"
        f"{f' ({interval})' if interval else ''}, expected {percent(model.alpha)}: {model.verdict}.</p>",
    ]
    if windows:
        parts.append(figure(f"Share of OOD pairs, {name}, each query once", share_chart(windows)))
        if any(w.tests for w in windows):
            parts.append(figure(f"p-values, {name}, adjusted for all tests of a window", p_chart(windows, one_in)))
        parts.append(_windows(windows))
        parts.append(_slice_tests(windows))
        parts += [_notes(windows)]
    if any(part.name for part in model.slices):
        rows = [(shorten(s.name) or "(none)", f"{s.requests:,}", *share_cells(s.share_ood)) for s in model.slices]
        parts.append(table("Slices", ("slice", "requests", "share OOD", "95 % interval"), rows))
    if model.strangest:
        queries = [
            (
                shorten(q.query),
                f"{q.requests:,}",
                f"{q.candidates:,}",
                percent(q.share_ood),
                f"{q.max_ood_distance:.2f}",
            )
            for q in model.strangest
        ]  # fmt: skip
        parts.append(table("Strangest queries", ("query", "requests", "pairs", "share OOD", "distance"), queries))
    return [part for part in parts if part]


def _windows(windows: Sequence[WindowReport]) -> str:
    rows = []
    for window in windows:
        tests = whole(window)
        auc = tests.get(AUC)
        rows.append((
            span(window), f"{window.requests:,}", f"{window.queries:,}", *share_cells(window.share_ood),
            p_text(tests.get(SHARE)), p_text(tests.get(MMD)), f"{auc.value:.3f}" if auc else "–", p_text(auc),
            window.verdict,
        ))  # fmt: skip
    head = ("window (UTC)", "requests", "queries", "share OOD", "95 % interval", "p", "MMD p", "AUC", "p", "verdict")
    return table("Windows", head, rows)


def _slice_tests(windows: Sequence[WindowReport]) -> str:
    rows = [
        (span(w), shorten(t.slice or ""), t.test, f"{t.queries:,}", f"{t.value:.4f}", f"{t.p:.2g}", f"{t.p_holm:.2g}",
         "drift" if t.drift else "")
        for w in windows for t in w.tests if t.slice is not ALL
    ]  # fmt: skip
    head = ("window (UTC)", "slice", "test", "queries", "value", "p", "Holm", "")
    return table("Tests of slices", head, rows, names=3) if rows else ""


def _notes(windows: Sequence[WindowReport]) -> str:
    said = [f"<li>{escaped(span(w))}: {escaped(note)}</li>" for w in windows for note in w.notes]
    return f"<p>What could not be tested:</p><ul>{''.join(said)}</ul>" if said else ""
