"""Charts of the monitor's page: plain SVG without a library, for light and dark themes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape

from darl_opensearch.monitor.drift.report import ALL, AUC, DRIFT, MMD, SHARE, WindowReport

WIDTH, HEIGHT = 860, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 34
_LEAST_P = 1e-5  # smaller p-values are drawn at the edge
_TICKS = 5
_SERIES = {SHARE: ("share OOD", "circle"), MMD: ("MMD", "square"), AUC: ("classifier", "diamond")}


def share_chart(windows: Sequence[WindowReport]) -> str:
    """Draw the share of OOD pairs over time, with its interval and the line at alpha.

    :param windows: of one model version, at least one.
    :return: an ``<svg>`` element.
    """
    highest = max([windows[0].alpha, *(w.share_ood.high or w.share_ood.value or 0.0 for w in windows)])
    top = min(1.0, 1.15 * highest)
    x, y = _time_axis(windows), _linear(top)
    ticks = [(top * tick / (_TICKS - 1), f"{100 * top * tick / (_TICKS - 1):.1f} %") for tick in range(_TICKS)]
    parts = [_grid(ticks, y), _time_labels(windows, x)]
    parts.append(_level(y(windows[0].alpha), f"alpha {100 * windows[0].alpha:g} %"))
    measured = [(w, w.share_ood.value) for w in windows if w.share_ood.value is not None]
    points = " ".join(f"{x(_middle(w)):.1f},{y(value):.1f}" for w, value in measured)
    parts.append(f'<polyline class="line" points="{points}"/>')
    for window, value in measured:
        place, low, high = x(_middle(window)), window.share_ood.low, window.share_ood.high
        title = f"{window.start:%Y-%m-%d %H:%M}: {100 * value:.1f} %, {window.verdict}"
        bar = ""
        if low is not None and high is not None:
            bar = f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
        parts.append(_point(window.verdict == DRIFT, title, bar + _mark("circle", place, y(value))))
    return _svg(parts, f"Share of OOD pairs of {windows[0].model} {windows[0].version} over time")


def p_chart(windows: Sequence[WindowReport], one_in: int) -> str:
    """Draw the p-values of all traffic over time, on a logarithmic scale, adjusted by Holm.

    :param windows: of one model version, at least one.
    :param one_in: windows without drift for one false alarm.
    :return: an ``<svg>`` element.
    """
    x, y = _time_axis(windows), _log_p
    ticks = [(10.0**-power, "1" if not power else f"1e-{power}") for power in range(6)]
    parts = [_grid(ticks, y), _time_labels(windows, x), _level(y(1 / one_in), f"level 1/{one_in}")]
    for place, (name, (label, shape)) in enumerate(_SERIES.items()):
        tests = [(w, test) for w in windows for test in w.tests if test.test == name and test.slice is ALL]
        for window, test in tests:
            title = f"{window.start:%Y-%m-%d %H:%M}, {label}: p {test.p:.2g}, Holm {test.p_holm:.2g}"
            mark = _mark(shape, x(_middle(window)) + 7 * (place - 1), y(test.p_holm))
            parts.append(_point(test.drift, title, mark))
        if tests:
            left = _LEFT + 12 + 110 * place
            parts.append(f'<g class="calm">{_mark(shape, left, HEIGHT - 6)}</g>')
            parts.append(_text(left + 9, HEIGHT - 2, label, "start"))
    return _svg(parts, f"p-values of the drift tests of {windows[0].model} {windows[0].version} over time")


def _svg(parts: Sequence[str], label: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' width="{WIDTH}" height="{HEIGHT}">\n{body}\n</svg>'
    )


def _level(y: float, label: str) -> str:
    """Draw a labelled horizontal line."""
    line = f'<line class="level" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f"{line}\n{_text(WIDTH - _RIGHT, y - 5, label, 'end')}"


def _point(drift: bool, title: str, shapes: str) -> str:
    return f'<g class="{"drift" if drift else "calm"}"><title>{escape(title)}</title>{shapes}</g>'


def _middle(window: WindowReport) -> datetime:
    return window.start + (window.end - window.start) / 2


def _time_axis(windows: Sequence[WindowReport]) -> Callable[[datetime], float]:
    first, last = _middle(windows[0]), _middle(windows[-1])
    width = WIDTH - _LEFT - _RIGHT
    span = (last - first).total_seconds()
    # With margins for the marks; a single window is in the middle.
    return lambda t: _LEFT + width * (0.04 + 0.92 * ((t - first).total_seconds() / span if span > 0 else 0.5))


def _linear(high: float) -> Callable[[float], float]:
    height = HEIGHT - _TOP - _BOTTOM
    return lambda value: _TOP + height * (1 - value / (high or 1.0))


def _log_p(p: float) -> float:
    height = HEIGHT - _TOP - _BOTTOM
    return _TOP + height * math.log10(max(p, _LEAST_P)) / math.log10(_LEAST_P)


def _grid(ticks: Sequence[tuple[float, str]], y: Callable[[float], float]) -> str:
    return "\n".join(
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        + _text(_LEFT - 6, y(value) + 4, label, "end")
        for value, label in ticks
    )


def _time_labels(windows: Sequence[WindowReport], x: Callable[[datetime], float]) -> str:
    short = _middle(windows[-1]) - _middle(windows[0]) < (windows[0].end - windows[0].start) * 2
    labelled = windows[:: max(1, -(-len(windows) // 6))]
    form = "%Y-%m-%d %H:%M" if short or windows[0].start.date() == windows[-1].start.date() else "%Y-%m-%d"
    return "".join(_text(x(_middle(w)), HEIGHT - _BOTTOM + 16, f"{w.start:{form}}", "middle") for w in labelled)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _mark(shape: str, x: float, y: float) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    if shape == "square":
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
    return f'<polygon points="{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"/>'
