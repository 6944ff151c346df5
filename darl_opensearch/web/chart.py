"""Charts: drawn in the browser by uPlot, with the same numbers as a table beside each.

uPlot fits into the page (50 kB) and draws 100,000 points at once; ECharts and Vega-Lite would add 1 MB to every file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from darl_opensearch.web.markup import escaped, table

Unit = Literal["percent", "count", "ms", "number", "p"]
FORMATS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: f"{100 * value:.1f} %",
    "count": lambda value: f"{value:,.0f}",
    "ms": lambda value: f"{value:,.1f} ms",
    "number": lambda value: f"{value:.4g}",
    "p": lambda value: f"{value:.2g}",
}
MOST_SERIES = 6  # what charts.js has colours, dashes and marks for


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    :param values: one per x; None: nothing there.
    :param low: lower end of a band or bar around each value; None without.
    :param high: upper end.
    :param kind: ``line`` with marks, ``marks`` alone, ``bars``, or a ``guide``: a line without marks.
    """

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    kind: Literal["line", "marks", "bars", "guide"] = "line"


@dataclass(frozen=True)
class Chart:
    """A chart over time, or over any other number.

    :param key: letters and dashes; of the figure in the page.
    :param title: caption, as text: what is seen, not how it is drawn.
    :param x: seconds since 1970 if ``time``, increasing.
    :param series: at most :data:`MOST_SERIES`.
    :param unit: of the y axis; ``p`` is a logarithmic axis from 1e-5 to 1.
    :param level: a horizontal line and its label.
    :param marks: vertical lines: x and label of each.
    :param flagged: places in ``x`` to draw attention to, with a word for them.
    :param x_name: heading of x in the table.
    :param top: upper end of the y axis; by default as the values need.
    :param names: of each x, which stand in its place: on the axis, in the table and under the pointer.
    :param labels: heading and text of each x, for the table and the pointer: of a point, what it is.
    :param height: of the drawing, in CSS pixels.
    """

    key: str
    title: str
    x: Sequence[float]
    series: Sequence[Series]
    unit: Unit = "number"
    time: bool = True
    level: tuple[float, str] | None = None
    marks: Sequence[tuple[float, str]] = ()
    flagged: tuple[Sequence[int], str] = ((), "")
    x_name: str = "time (UTC)"
    top: float | None = None
    names: Sequence[str] = ()
    labels: tuple[str, Sequence[str]] = ("", ())
    height: int = 240

    def __post_init__(self) -> None:
        """Refuse series of another length than x, and more than can be told apart."""
        rows: list[Sequence[Any]] = [
            part for s in self.series for part in (s.values, s.low, s.high) if part is not None
        ]
        rows += [texts for texts in (self.names, self.labels[1]) if texts]
        if any(len(row) != len(self.x) for row in rows) or not 1 <= len(self.series) <= MOST_SERIES:
            raise ValueError(f"chart {self.key}: {len(self.series)} series of {[len(row) for row in rows]} values")

    def to_json(self) -> dict[str, Any]:
        """Render for charts.js."""
        return {
            "x": list(self.x),
            "series": [
                {"name": s.name, "kind": s.kind, "values": _finite(s.values)}
                | ({"low": _finite(s.low), "high": _finite(s.high)} if s.low is not None and s.high is not None else {})
                for s in self.series
            ],
            "unit": self.unit,
            "time": self.time,
            "level": list(self.level) if self.level else None,
            "marks": [list(mark) for mark in self.marks],
            "flagged": {"at": list(self.flagged[0]), "name": self.flagged[1]},
            "top": self.top,
            "names": list(self.names),
            "labels": list(self.labels[1]),
            "height": self.height,
        }

    def figure(self) -> str:
        """Lay out the caption, the place of the drawing, and the table."""
        heads, columns = [self.x_name], [list(self.names) or [self._x(value) for value in self.x]]
        if self.labels[1]:
            heads.insert(0, self.labels[0])
            columns.insert(0, list(self.labels[1]))
        for s in self.series:
            heads.append(s.name)
            columns.append([self._y(value) for value in s.values])
            if s.low is not None and s.high is not None:
                heads.append(f"{s.name}, interval")
                pairs = zip(s.low, s.high, strict=True)
                columns.append([f"{self._y(a)} to {self._y(b)}" if a is not None else "–" for a, b in pairs])
        if self.flagged[1]:
            heads.append("mark")
            at = set(self.flagged[0])
            columns.append([self.flagged[1] if place in at else "" for place in range(len(self.x))])
        rows = list(zip(*columns, strict=True))
        marks = "".join(f"<li>{escaped(self._x(x))}: {escaped(label)}</li>" for x, label in self.marks)
        level = f"<p>Line: {escaped(self.level[1])}.</p>" if self.level else ""
        return (
            f'<figure class="chart" id="chart-{self.key}">\n<figcaption>{escaped(self.title)}</figcaption>\n'
            f'<div class="plot" data-chart="{self.key}" role="img" aria-label="{escaped(self.title)}. '
            f'The table below has its numbers."></div>\n'
            f"<details><summary>Numbers of this chart</summary>{level}"
            f"{f'<ul>{marks}</ul>' if marks else ''}{table(self.title, heads, rows)}</details>\n</figure>"
        )

    def _x(self, value: float) -> str:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}" if self.time else f"{value:g}"

    def _y(self, value: float | None) -> str:
        return "–" if value is None or not math.isfinite(value) else FORMATS[self.unit](value)


def _finite(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None or not math.isfinite(value) else float(f"{value:.6g}") for value in values]
