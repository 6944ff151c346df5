"""The monitor as one self-contained HTML page: what is wrong and where; over time; down to the texts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from darl_opensearch.monitor.drift.report import ALL, DRIFT, SHARE, DriftReport
from darl_opensearch.monitor.figures import SOME_LOG, Filters, Flagged, Focus, LogSource, Overview, WindowFigures
from darl_opensearch.monitor.nearest import describe
from darl_opensearch.monitor.render import LOSS_TEXT, format_percent, format_share, shorten
from darl_opensearch.monitor.render_drift import format_span, format_tests
from darl_opensearch.monitor.report import LOSSES
from darl_opensearch.stats.shares import Share
from darl_opensearch.web.chart import MOST_SERIES, Chart, Series
from darl_opensearch.web.markup import escaped, table
from darl_opensearch.web.page import asset, page

TITLE = "Traffic monitor"
_LONGEST = 300  # characters of a text that are shown
_MOST_OF_THEME = 50  # queries
_LENGTHS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_MOST_MARKS = 20  # vertical lines on a chart, latest first
MOST_CARRIED = 3_000_000  # characters of all further views of a file
_MOST_WINDOWS = 200  # to choose from, latest first; those that drifted are always there
_STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.cards div { background: var(--soft); border-radius: .4rem; padding: .6rem .9rem; }
.cards dt { color: var(--muted); font-size: .85rem; } .cards dd { margin: 0; font-size: 1.5rem; font-weight: 600; }
.cards dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 0 2rem; }
.charts > * { min-width: 0; }
form.filters:not([hidden]) { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; margin: 1rem 0; }
form.filters label { display: grid; grid-template-columns: minmax(0, max-content); max-width: 100%; }
form.filters label { font-size: .85rem; color: var(--muted); }
pre { overflow-x: auto; background: var(--soft); border-radius: .4rem; padding: .5rem .75rem; }
.theme { border-bottom: 1px solid var(--line); } .theme summary { padding: .3rem 0; }
"""


def render_monitor_page(
    found: Overview,
    *,
    drift: DriftReport | None = None,
    grades: Sequence[str] = (),
    source: LogSource = SOME_LOG,
    filters: bool = False,
    views: Iterable[Overview] = (),
    top: Sequence[str] = (),
) -> str:
    """Render the page.

    :param drift: drift tests of the features, of the same records; shown if any could be made.
    :param grades: names of the grades, from grade 0.
    :param source: how commands on the page read the same records.
    :param filters: with a form that asks the server that the page came from for other figures.
    :param views: for a page without a server: what its form can show beside ``found``, as much as a file may hold.
    :param top: HTML before everything else: how to sign out, say.
    """
    charts = _charts(found, grades)
    status, main = _status(found, drift), _main(found, charts, grades, source)
    heading = [*top, f"<h1>{TITLE}</h1>", f'<p class="muted">{_about(found)}</p>']
    ending = [*_features(drift), *_spool(found.counters)]
    carried = [] if filters else _carry(found, views, grades, source)
    scripts = [asset("monitor.js")] if filters or found.focus is not None else []
    data = None
    if filters:
        body = [*heading, *status, _form(_selects(found), found.filters), *main, *ending]
    elif found.focus is not None:
        form = [_form(_carried_selects(found, carried), found.filters, file=True), _FILE]
        body = [*heading, *_part("status", status), *form, *_part("main", main), *ending]
        body += [view.template for view in carried]
        data = {"views": [_place(found, found), *(view.place for view in carried)],
                "command": shlex.join(["darl", "monitor", *source.monitor, "--html", "FILE"])}  # fmt: skip
        scripts.append(asset("monitor_file.js"))
    else:
        body = [*heading, *status, *main, *ending]
    return page(
        f"{TITLE}: {found.store}", body, style=_STYLE, charts=list(charts.values()), scripts=scripts, data=data,
        forms=filters,
    )  # fmt: skip


def _main(found: Overview, charts: Mapping[str, Chart], grades: Sequence[str], source: LogSource) -> list[str]:
    body = [_nothing(found)] if found.focus is None else _focus(found, found.focus, charts, grades, source)
    shown = [chart.figure() for key, chart in charts.items() if key not in ("share", "slices")]
    if shown:
        body += ["<h2>Over time</h2>", '<div class="charts">', *shown, "</div>"]
    return [*body, *_releases(found), *_windows(found)]


@dataclass(frozen=True)
class _View:
    """What a file carries of one choice of its filters.

    :param template: HTML, in an element that the browser does not show.
    :param place: by what it is found, and its charts.
    """

    of: Overview
    template: str
    place: Mapping[str, Any]


def _carry(found: Overview, views: Iterable[Overview], grades: Sequence[str], source: LogSource) -> list[_View]:
    """Render views until the file would be too large."""
    carried: list[_View] = []
    size = 0
    for number, view in enumerate(views, 1):
        charts = _charts(view, grades)
        parts = [*_part("status", _status(view, None)), *_part("main", _main(view, charts, grades, source))]
        inner = "\n".join(parts)
        place = _place(view, found) | {"charts": {key: chart.to_json() for key, chart in charts.items()}}
        size += len(inner) + len(json.dumps(place))
        if size > MOST_CARRIED:
            break
        carried.append(_View(view, f'<template data-view="{number}">{inner}</template>', place))
    return carried


def _part(name: str, lines: Sequence[str]) -> list[str]:
    return [f'<div data-part="{name}">', *lines, "</div>"]


def _place(view: Overview, found: Overview) -> dict[str, Any]:
    """Name a view by the parameters of the form; what the file as a whole is filtered by is no choice."""
    chosen, fixed = view.filters, found.filters
    return {
        "model": "" if chosen.model == fixed.model else chosen.model,
        "slice": "" if chosen.slice == fixed.slice else f"={chosen.slice}",
        "window": "" if chosen.window == fixed.window or chosen.window is None else _iso(chosen.window),
        "at": _iso(view.focus.window.start) if view.focus else "",
    }  # fmt: skip


def _about(found: Overview) -> str:
    since = f"from {found.since:%Y-%m-%d %H:%M} " if found.since else ""
    cut = f" A window is {describe_length(found.span_s)}." if found.span_s else ""
    return (
        f"{escaped(found.store)}, {since}to {found.until:%Y-%m-%d %H:%M} UTC.{cut} OOD: out of distribution, unlike "
        "what the model was calibrated on. Each query counts once in a window; intervals are 95 %, clustered by query."
    )


def describe_length(seconds: int) -> str:
    """Write the length of a window: ``a day``, ``12 hours``."""
    unit, name = next((unit, name) for unit, name in _LENGTHS if seconds % unit == 0)
    if seconds == unit:
        return f"{'an' if name == 'hour' else 'a'} {name}"
    return f"{seconds // unit:,} {name}s"


def _status(found: Overview, drift: DriftReport | None) -> list[str]:
    """Say in a line each what is wrong, or that nothing is.

    :param drift: its tests of features may find what the share does not.
    """
    latest, lines = found.latest, list[str]()
    drifted = latest is not None and latest.verdict == DRIFT
    if latest is not None and drifted:
        lines.append(_drifted(latest.name, _span(latest), latest.reasons))
    elif drift is not None and drift.latest is not None and drift.start_cycle:
        drifted = True
        tested = drift.latest
        lines.append(_drifted(f"{tested.model} {tested.version}", format_span(tested), drift.reasons))
    if found.windows:
        last = found.windows[-1]
        of_last = [w for w in found.windows if w.start == last.start]
        failed, scored = sum(w.not_reranked for w in of_last), sum(w.requests for w in of_last)
        if failed:
            lines.append(
                f'<div class="bad"><p><strong>{failed:,} searches not reranked</strong> in {_span(last)} '
                f"({format_percent(failed / (failed + scored))} of those logged): check the scorer, the model's state "
                "and the node's log.</p></div>"
            )
    losses = [f"{found.counters[name]:,} {LOSS_TEXT[name]}" for name in LOSSES if found.counters.get(name)]
    if losses:
        lines.append(
            f'<div class="warn"><p><strong>Records are missing.</strong> {escaped("; ".join(losses))}.</p></div>'
        )
    earlier = [w for w in found.windows if w.verdict == DRIFT and w is not latest]
    if earlier and not drifted:
        lines.append(
            f'<div class="warn"><p><strong>Earlier drift</strong> in {len(earlier):,} '
            f"window{'s' * (len(earlier) > 1)}, last in {_span(earlier[-1])} ({escaped(earlier[-1].name)}).</p></div>"
        )
    if not lines and latest is not None:
        lines.append(
            f'<div class="good"><p><strong>No drift.</strong> {escaped(latest.name)}, {_span(latest)}: share OOD '
            f"{_share(latest)}, expected {format_percent(latest.alpha)}.</p></div>"
        )
    if not lines and found.windows:
        lines.append(
            '<div class="warn"><p><strong>Not tested.</strong> No window has enough queries, or none is over.</p></div>'
        )
    return lines


def _drifted(name: str, span: str, reasons: Sequence[str]) -> str:
    listed = "".join(f"<li>{escaped(reason)}</li>" for reason in reasons)
    return (
        f'<div class="bad"><p><strong>Drift.</strong> {escaped(name)}, {span}, the latest tested window: a cycle is '
        f"due.</p><ul>{listed}</ul></div>"
    )


def _nothing(found: Overview) -> str:
    if found.counters.get("shipped") and not found.counters.get("stored_records"):
        return "<p>All records of this spool were shipped to the cluster: read them there, with <code>--url</code>.</p>"
    if found.first is not None:
        return "<p>No records match. Choose a longer period, or all versions and slices.</p>"
    return (
        "<p>No records yet. <code>darl serve</code>, <code>darl search</code> and <code>Reranker(bundle, ood_log=PATH)"
        "</code> write them.</p>"
    )


def _focus(
    found: Overview, focus: Focus, charts: Mapping[str, Chart], grades: Sequence[str], source: LogSource
) -> list[str]:
    window, asked = focus.window, found.filters.window
    chosen = "chosen" if window.holds(asked) else "the highest drift" if window.verdict == DRIFT else "the latest"
    of_slice = "" if found.filters.slice is None else f", slice {found.filters.slice or '(none)'}"
    value, interval = format_share(window.share_ood)
    failed = window.not_reranked / max(window.not_reranked + window.requests, 1)
    latency = (
        (f"{window.latency_ms[0]:,.0f} ms", f"95th percentile {window.latency_ms[1]:,.0f} ms")
        if window.latency_ms else ("–", "")
    )  # fmt: skip
    cards = [
        ("Share OOD", value, f"expected {format_percent(window.alpha)}; {interval or 'no interval'}"),
        ("Verdict", window.verdict, f"one false alarm in {found.one_in:,} windows"),
        ("Searches", f"{window.requests:,}", f"{window.queries:,} queries, {window.pairs:,} pairs"),
        ("Not reranked", f"{window.not_reranked:,}", f"{format_percent(failed)} of those logged"),
        ("Median latency", *latency),
    ]
    if window.grades:
        best = max(range(len(window.grades)), key=lambda grade: window.grades[grade])
        cards.append(("Most frequent grade", _grade(grades, best), f"{format_percent(window.grades[best])} of pairs"))
    rows = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}<small>{escaped(more)}</small></dd></div>"
        for name, value, more in cards
    )
    parts = [] if asked is None or window.holds(asked) else [
        f'<div class="warn"><p>No window holds {asked:%Y-%m-%d %H:%M}. Shown instead:</p></div>'
    ]  # fmt: skip
    parts += [
        f"<h2>{escaped(window.name)}, {_span(window)}{escaped(of_slice)}: {chosen}</h2>",
        f'<dl class="cards">{rows}</dl>',
    ]
    if window.reasons and window is not found.latest:  # its reasons stand above
        parts.append("<ul>" + "".join(f"<li>{escaped(reason)}</li>" for reason in window.reasons) + "</ul>")
    parts.append(charts["share"].figure())
    parts += [
        '<div class="charts">',
        *([charts["slices"].figure()] if "slices" in charts else []),
        _slices(window),
        "</div>",
    ]
    return [*parts, *_texts(focus), *_flagged(focus.flagged, window, source)]


def _flagged(flagged: Flagged, window: WindowFigures, source: LogSource) -> list[str]:
    """Say among how many queries a selection would choose, and how to count them exactly."""
    command = shlex.join(["darl", "select", *source.select, "--since", _iso(window.start), "--dry-run"])
    return [
        "<h3>What a cycle would choose from</h3>",
        f"<p>{flagged.queries:,} of {_many(window.queries, 'query', 'queries')} "
        f"({_many(flagged.searches, 'search', 'searches')}) flagged: at least {100 * flagged.share:.0f} % of the pairs "
        "OOD, on average over the searches. That is the default of <code>[select] flagged_share</code>. "
        "<code>darl select</code> and <code>darl cycle</code> choose among flagged queries. First they draw the random "
        "control arm, and drop duplicates, judged queries, machines and noise. With the extra <code>train</code> this "
        "counts what is left from this window on:</p>",
        f'<pre tabindex="0" role="region" aria-label="Command"><code>{escaped(command)}</code></pre>',
        '<p class="muted"><code>--trained</code> and <code>--judged</code> name what has been judged. The bundle must '
        f"be that of {escaped(window.name)}.</p>",
    ]


def _releases(found: Overview) -> list[str]:
    """List the releases of the period, or say why they are not known."""
    if found.releases_unread:
        return [f"<p>Releases are not shown: the history could not be read. {escaped(found.releases_unread)}</p>"]
    if not found.releases:
        return []
    rows = [
        (f"{r.time:%Y-%m-%d %H:%M}", r.event, r.version, "–" if r.gate is None else "passed" if r.gate else "refused",
         _text(r.note))
        for r in reversed(found.releases)
    ]  # fmt: skip
    return [table("Releases", ("time (UTC)", "event", "version", "gate", "note"), rows, names=5)]


def _slices(window: WindowFigures) -> str:
    if not any(part.name for part in window.slices):
        return ""
    tests = {test.slice: test for test in window.tests if test.slice is not ALL}
    rows = [
        (shorten(s.name) or "(none)", f"{s.queries:,}", *format_share(s.share_ood),
         f"{tests[s.name].p_holm:.2g}" if s.name in tests else "–",
         "drift" if s.name in tests and tests[s.name].drift else "")
        for s in window.slices
    ]  # fmt: skip
    head = ("slice", "queries", "share OOD", "95 % interval", "p (Holm)", "")
    return table("Slices of this window", head, rows)


def _texts(focus: Focus) -> list[str]:
    parts = []
    if focus.themes:
        parts.append(
            '<h3>What the OOD queries are about</h3><p class="muted">Grouped by words that they share and that '
            "ordinary queries lack, most OOD pairs first. Flagged: see below.</p>"
        )
        for theme in focus.themes:
            name = f"“{theme.word}”" if theme.word else "no word in common"
            queries_of = _many(len(theme.queries), "query", "queries")
            flagged = sum(asked.flagged for asked in theme.queries)
            summary = f"{name}: {queries_of}, {flagged:,} flagged, {_many(theme.ood_pairs, 'OOD pair', 'OOD pairs')}"
            rows = [
                (_text(asked.query), f"{asked.requests:,}", f"{asked.ood_pairs:,}", "yes" if asked.flagged else "no")
                for asked in theme.queries[:_MOST_OF_THEME]
            ]
            parts.append(
                f'<details class="theme"><summary>{escaped(summary)}</summary>'
                f"{table(f'Queries: {name}', ('query', 'searches', 'OOD pairs', 'flagged'), rows)}</details>"
            )
    if focus.queries:
        queries = [
            (_text(q.text), *map(_text, describe(q.why)), f"{q.count:,.0f}", format_percent(q.share_ood),
             _number(q.ood_distance))
            for q in focus.queries
        ]  # fmt: skip
        why = ("nearest training query", "words not trained on") if focus.queries[0].why else ()
        head = ("query", *why, "searches", "share OOD", "highest distance")
        parts.append(table("Strangest queries", head, queries, names=1 + len(why)))
    if focus.items:
        explained = any(i.why for i in focus.items)
        items = [
            (shorten(i.item_id or "–", 80), _text(i.text) if i.text else "(text not logged)",
             *(map(_text, describe(i.why) or ("–", "–")) if explained else ()), f"{i.count:,.0f}",
             format_percent(i.share_ood), _number(i.ood_distance))
            for i in focus.items
        ]  # fmt: skip
        why = ("nearest training item", "words not trained on") if explained else ()
        head = ("item", "text", *why, "pairs (estimate)", "share OOD", "highest distance")
        parts.append(table("Items with most OOD pairs", head, items, names=2 + len(why)))
    if focus.queries and focus.queries[0].why is None:
        parts.append(
            '<p class="muted">A bundle exported with <code>--texts</code>, given with <code>--bundle</code>, shows the '
            "nearest training texts beside these.</p>"
        )
    return parts


def _charts(found: Overview, grades: Sequence[str]) -> dict[str, Chart]:
    """Make the charts, by key: of all chosen versions, and of the one that is looked into."""
    if found.focus is None:
        return {}
    versions = list(dict.fromkeys(w.name for w in found.windows))[-MOST_SERIES:]
    marks = _marks(found, versions)
    starts = sorted({w.start for w in found.windows if w.name in versions})
    at = {(w.start, w.name): w for w in found.windows}
    x = [start.timestamp() for start in starts]
    rows = {name: [at.get((start, name)) for start in starts] for name in versions}
    shares = {name: [w.share_ood if w else None for w in row] for name, row in rows.items()}
    flagged = [n for n in range(len(x)) if any(w and w.verdict == DRIFT for w in (row[n] for row in rows.values()))]
    alpha = found.focus.window.alpha
    charts = [
        Chart(
            "share", "Share of OOD pairs, by version", x,
            [Series(name, _each(row, "value"), _each(row, "low"), _each(row, "high")) for name, row in shares.items()],
            unit="percent", level=(alpha, f"expected: {format_percent(alpha)}"), marks=marks,
            flagged=(flagged, "drift"),
        )
    ]  # fmt: skip
    own = [w for w in found.windows if w.name == found.focus.window.name]
    x = [w.start.timestamp() for w in own]
    own_marks = [mark for mark in marks if x[0] <= mark[0] <= own[-1].end.timestamp()]
    names = [s.name for s in sorted(found.focus.window.slices, key=lambda s: -s.queries) if s.name][:MOST_SERIES]
    if names:
        by_slice = [{s.name: s.share_ood.value for s in w.slices} for w in own]
        series = [Series(shorten(name, 30), [row.get(name) for row in by_slice]) for name in names]
        title = f"Share of OOD pairs by slice, {found.focus.window.name}"
        charts.append(Chart("slices", title, x, series, unit="percent", level=(alpha, "expected")))
    count = min(max((len(w.grades) for w in own), default=0), MOST_SERIES)
    if count:
        series = [
            Series(_grade(grades, g), [(w.grades[g] if g < len(w.grades) else 0.0) if w.grades else None for w in own])
            for g in range(count)
        ]
        title = f"Pairs by grade, {found.focus.window.name} (estimate)"
        charts.append(Chart("grades", title, x, series, unit="percent", marks=own_marks))
    all_x = [start.timestamp() for start in starts]
    searches = [sum(w.requests for row in rows.values() if (w := row[n])) for n in range(len(starts))]
    failed = [sum(w.not_reranked for row in rows.values() if (w := row[n])) for n in range(len(starts))]
    charts.append(
        Chart("searches", "Searches", all_x, [Series("reranked", searches, kind="bars")], unit="count", marks=marks)
    )
    if any(failed):
        series = [Series("not reranked", failed, kind="bars")]
        charts.append(Chart("failed", "Searches not reranked", all_x, series, unit="count", marks=marks))
    times = [w.latency_ms or (None, None) for w in own]
    series = [Series(name, [t[n] for t in times]) for n, name in enumerate(("median", "95th percentile"))]
    charts.append(
        Chart("latency", f"Latency of the ranking, {found.focus.window.name}", x, series, unit="ms", marks=own_marks)
    )
    return {chart.key: chart for chart in charts}


def _marks(found: Overview, versions: Sequence[str]) -> list[tuple[float, str]]:
    """Mark releases; of versions that no release brought, their first window."""
    first = found.windows[0].start
    shown = [r for r in found.releases if r.time >= first]
    released = {r.version for r in shown if r.event != "refused"}
    marks = [(r.time.timestamp(), f"{r.event}: {r.version}") for r in shown]
    for name in versions[1:]:
        if name not in released:
            marks.append((min(w.start for w in found.windows if w.name == name).timestamp(), name))
    return sorted(marks)[-_MOST_MARKS:]


_Select = tuple[
    str, str, list[tuple[str, str]], str
]  # name, label, value and text of each option, and the chosen value


def _selects(found: Overview) -> list[_Select]:
    """List what a server can show."""
    chosen = found.filters
    recent = [w for n, w in enumerate(reversed(found.windows)) if n < _MOST_WINDOWS or w.verdict == DRIFT]
    starts = {w.start: w for w in reversed(recent)}
    at = found.focus.window.start if found.focus and found.focus.window.holds(chosen.window) else None
    return [
        ("model", "version", [("", "all"), *((m, m) for m in found.models)], chosen.model or ""),
        ("slice", "slice", [("", "all traffic"), *((f"={s}", s or "(none)") for s in found.slices)],
         "" if chosen.slice is None else f"={chosen.slice}"),
        ("window", "window", [("", "highest drift"), *(_window_option(w) for w in reversed(starts.values()))],
         _iso(at) if at else ""),
    ]  # fmt: skip


def _carried_selects(found: Overview, carried: Sequence[_View]) -> list[_Select]:
    """List what a file carries."""
    fixed = found.filters
    models = dict.fromkeys(str(v.place["model"]) for v in carried)
    slices = dict.fromkeys(str(v.place["slice"]) for v in carried)
    windows = {w.start: w for v in carried if v.place["window"] and v.of.focus for w in [v.of.focus.window]}
    all_slices = "all traffic" if fixed.slice is None else fixed.slice or "(none)"
    return [
        ("model", "version", [("", fixed.model or "all"), *((m, m) for m in models if m)], ""),
        ("slice", "slice", [("", all_slices), *((s, s[1:] or "(none)") for s in slices if s)], ""),
        ("window", "window", [("", "highest drift" if fixed.window is None else f"{fixed.window:%Y-%m-%d %H:%M}"),
                              *(_window_option(windows[start]) for start in sorted(windows, reverse=True))], ""),
    ]  # fmt: skip


def _window_option(window: WindowFigures) -> tuple[str, str]:
    return _iso(window.start), f"{window.start:%Y-%m-%d %H:%M}{', drift' if window.verdict == DRIFT else ''}"


_FILE = (
    '<p class="muted" id="shown" role="status"></p><div class="warn" id="missing" hidden><p>This file does not carry '
    'that view. This command writes one that does:</p><pre tabindex="0" role="region" aria-label="Its command">'
    "<code></code></pre></div>"
)


def _form(selects: Sequence[_Select], chosen: Filters, *, file: bool = False) -> str:
    """Lay out the filters.

    :param file: they are worked by a script, without a server.
    """
    parts = []
    for name, label, options, value in selects:
        entries = "".join(
            f'<option value="{escaped(key)}"{" selected" if key == value else ""}>{escaped(shorten(text))}</option>'
            for key, text in options
        )
        parts.append(f'<label>{label} <select name="{name}">{entries}</select></label>')
    for name, label, time in (("since", "from (UTC)", chosen.since), ("until", "to (UTC)", chosen.until)):
        value = f' value="{time:%Y-%m-%dT%H:%M}"' if time and not file else ""
        parts.append(f'<label>{label} <input type="datetime-local" name="{name}"{value}></label>')
    how, everything = ("hidden", "#") if file else ('method="get"', "?")
    return (
        f'<form class="filters" {how} aria-label="Filters">{"".join(parts)}<button>Show</button> '
        f'<a href="{everything}">Show all</a></form>'
    )


def _windows(found: Overview) -> list[str]:
    if not found.windows:
        return []
    rows = [
        (f"{_span(w)}", w.name, f"{w.requests:,}", f"{w.not_reranked:,}", f"{w.queries:,}", *format_share(w.share_ood),
         f"{w.tests[0].p_holm:.2g}" if w.tests else "–", w.verdict)
        for w in reversed(found.windows)
    ]  # fmt: skip
    head = (
        "window (UTC)",
        "version",
        "searches",
        "not reranked",
        "queries",
        "share OOD",
        "95 % interval",
        "p (Holm)",
        "verdict",
    )
    return [f"<details><summary>All {len(rows):,} windows</summary>{table('Windows', head, rows, names=2)}</details>"]


def _features(drift: DriftReport | None) -> list[str]:
    """Show tests of features; those of the share alone are shown already."""
    windows = [w for w in drift.windows if any(t.test != SHARE for t in w.tests) or w.notes] if drift else []
    if drift is None or not windows:
        return []
    rows = [(format_span(w), f"{w.model} {w.version}", *format_tests(w)[1:], w.verdict) for w in windows]
    against = drift.bundle or "alpha alone"
    notes = "".join(f"<li>{escaped(format_span(w))}: {escaped(note)}</li>" for w in windows for note in w.notes)
    return [
        f"<h2>Features against {escaped(against)}</h2>",
        table("MMD and classifier tests", ("window (UTC)", "version", "MMD p", "AUC", "p", "verdict"), rows, names=2),
        f"<p>What could not be tested, or only in part:</p><ul>{notes}</ul>" if notes else "",
    ]


def _spool(counters: Mapping[str, int]) -> list[str]:
    if not counters:
        return []
    rows = [(name, f"{count:,}") for name, count in counters.items()]
    return [f"<details><summary>Spool</summary>{table('Counters', ('counter', 'count'), rows)}</details>"]


def _span(window: WindowFigures) -> str:
    whole = (window.end - window.start).total_seconds() >= 86400
    return f"{window.start:%Y-%m-%d}" if whole else f"{window.start:%Y-%m-%d %H:%M}"


def _each(shares: Sequence[Share | None], end: str) -> list[float | None]:
    return [getattr(share, end) if share else None for share in shares]


def _share(window: WindowFigures) -> str:
    value, interval = format_share(window.share_ood)
    return f"{value} ({interval})" if interval else value


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _grade(names: Sequence[str], grade: int) -> str:
    return shorten(names[grade], 30) if grade < len(names) else f"grade {grade}"


def _text(text: str | None) -> str:
    return shorten(text or "", _LONGEST)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _iso(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M}"
