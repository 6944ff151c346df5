"""The monitor as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from darl_opensearch.errors import one_line
from darl_opensearch.monitor.charts import p_chart, share_chart
from darl_opensearch.monitor.drift.report import ALL, AUC, MMD, SHARE, DriftReport, WindowReport
from darl_opensearch.monitor.render import percent, share_cells, shorten
from darl_opensearch.monitor.render_drift import p_text, span, whole
from darl_opensearch.monitor.report import ModelReport, MonitorReport

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
       background: Canvas; color: CanvasText; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { padding: .25rem .75rem .25rem 0; text-align: right; white-space: nowrap;
         border-bottom: 1px solid color-mix(in srgb, CanvasText 15%, Canvas); }
.name { text-align: left; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: CanvasText; }
.grid { stroke: CanvasText; stroke-opacity: .15; } .line { fill: none; stroke: CanvasText; stroke-opacity: .35; }
.level { stroke: CanvasText; stroke-dasharray: 6 4; }
.calm { fill: #2a7ab0; stroke: #2a7ab0; } .drift { fill: #d0402b; stroke: #d0402b; }
.alarm { border-left: .3rem solid #d0402b; padding-left: .75rem; }
.quiet { border-left: .3rem solid #2a7ab0; padding-left: .75rem; }
"""


def render_page(report: MonitorReport, drift: DriftReport) -> str:
    """Write the page.

    :param report: what the log says.
    :param drift: the drift tests of the same records.
    :return: HTML.
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
        body += ["<h2>Spool</h2>", _table("What was counted", ("counter", "count"), rows)]
    head = f"<title>{title}: {_text(report.store)}</title>\n<style>{_STYLE}</style>"
    start = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    start += '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    return f"{start}{head}\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"


def _about(report: MonitorReport, drift: DriftReport) -> str:
    since = f"from {report.since:%Y-%m-%d %H:%M}" if report.since else "from its beginning"
    against = f"Features are compared with the reference of {_text(drift.bundle)}." if drift.bundle else ""
    return (
        f"{_text(report.store)}, {since} to {report.until:%Y-%m-%d %H:%M} UTC. Intervals are 95 %, clustered by query. "
        f"A window without drift alarms with a chance of at most 1 in {drift.one_in:,}. {against} "
        "Scores of two model versions are never drawn as one line."
    )


def _decision(drift: DriftReport) -> str:
    if drift.start_cycle:
        reasons = "".join(f"<li>{_text(reason)}</li>" for reason in drift.reasons)
        return f'<div class="alarm"><p>The latest window has drifted: a cycle is due.</p><ul>{reasons}</ul></div>'
    said = "No window could be tested." if drift.latest is None else "The latest window tested has not drifted."
    return f'<div class="quiet"><p>{said}</p></div>'


def _model(model: ModelReport, windows: Sequence[WindowReport], one_in: int) -> list[str]:
    name = f"{model.model} {model.version}"
    value, interval = share_cells(model.share_ood)
    parts = [
        f"<h2>{_text(name)}</h2>",
        f"<p>{model.requests:,} requests, {model.queries:,} queries, {model.pairs:,} pairs, "
        f"{model.first:%Y-%m-%d %H:%M} to {model.last:%Y-%m-%d %H:%M} UTC. Share OOD {value}"
        f"{f' ({interval})' if interval else ''}, expected {percent(model.alpha)}: {model.verdict}.</p>",
    ]
    if windows:
        parts.append(_figure(f"Share of OOD pairs, {name}, each query once", share_chart(windows)))
        if any(w.tests for w in windows):
            parts.append(_figure(f"p-values, {name}, adjusted for all tests of a window", p_chart(windows, one_in)))
        parts.append(_windows(windows))
        parts.append(_slice_tests(windows))
        parts += [_notes(windows)]
    if any(part.name for part in model.slices):
        rows = [(shorten(s.name) or "(none)", f"{s.requests:,}", *share_cells(s.share_ood)) for s in model.slices]
        parts.append(_table("Slices", ("slice", "requests", "share OOD", "95 % interval"), rows))
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
        parts.append(_table("Strangest queries", ("query", "requests", "pairs", "share OOD", "distance"), queries))
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
    return _table("Windows", head, rows)


def _slice_tests(windows: Sequence[WindowReport]) -> str:
    rows = [
        (span(w), shorten(t.slice or ""), t.test, f"{t.queries:,}", f"{t.value:.4f}", f"{t.p:.2g}", f"{t.p_holm:.2g}",
         "drift" if t.drift else "")
        for w in windows for t in w.tests if t.slice is not ALL
    ]  # fmt: skip
    head = ("window (UTC)", "slice", "test", "queries", "value", "p", "Holm", "")
    return _table("Tests of slices", head, rows, names=3) if rows else ""


def _notes(windows: Sequence[WindowReport]) -> str:
    said = [f"<li>{_text(span(w))}: {_text(note)}</li>" for w in windows for note in w.notes]
    return f"<p>What could not be tested:</p><ul>{''.join(said)}</ul>" if said else ""


def _figure(title: str, svg: str) -> str:
    return f"<figure>\n<figcaption>{_text(title)}</figcaption>\n{svg}\n</figure>"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        marks = [' class="name"' if place < names else "" for place in range(len(cells))]
        return "".join(f"<{tag}{scope}{m}>{_text(c)}</{tag}>" for c, m in zip(cells, marks, strict=True))

    lines = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    thead = f"<thead><tr>{row(head, 'th')}</tr></thead>"
    return f'<div class="wide"><table><caption>{_text(title)}</caption>{thead}<tbody>\n{lines}\n</tbody></table></div>'


def _text(value: object) -> str:
    return escape(one_line(str(value)))
