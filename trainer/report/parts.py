"""What a report is put together from: HTML, charts, and sentences about what was not recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.errors import one_line
from darl_opensearch.web.chart import MOST_SERIES, Chart, Series
from darl_opensearch.web.markup import escaped, table
from trainer.report.recorded import Record


@dataclass(frozen=True)
class Missing:
    """Something that cannot be shown.

    :param why: a sentence that names it.
    """

    why: str


@dataclass(frozen=True)
class Heading:
    """The beginning of a section."""

    text: str

    @property
    def anchor(self) -> str:
        """Its id in the page, unlike those that pages have by themselves."""
        return "section-" + re.sub(r"[^a-z]+", "-", self.text.lower())


Piece = str | Chart | Heading | Missing
CONFIDENCE, ACCURACY = "confidence", "accuracy"


def paragraph(text: str, kind: str = "muted") -> str:
    """Write a paragraph of text.

    :param kind: CSS class.
    """
    return f'<p class="{kind}">{escaped(text)}</p>'


def callout(kind: str, lead: str, texts: Sequence[str]) -> str:
    """Write what the reader must see first.

    :param kind: ``good``, ``warn`` or ``bad``.
    :param lead: in bold.
    :param texts: the reasons, each an item of a list; a single one follows the lead.
    """
    one = f" {escaped(texts[0])}" if len(texts) == 1 else ""
    more = "" if len(texts) < 2 else bullets(texts)
    return f'<div class="{kind}"><p><strong>{escaped(lead)}</strong>{one}</p>{more}</div>'


def bullets(texts: Sequence[str]) -> str:
    """List texts."""
    return "<ul>" + "".join(f"<li>{escaped(text)}</li>" for text in texts) + "</ul>"


def side_by_side(pieces: Sequence[Piece]) -> list[Piece]:
    """Set charts beside each other where the window is wide enough."""
    return ['<div class="charts">', *pieces, "</div>"] if pieces else []


def intervals(name: str, values: Sequence[Record | None]) -> Series:
    """Make marks with intervals of figures, None where there is none.

    :param values: figures as ``mean``, ``low`` and ``high``.
    """
    ends = {end: [value.get(end) if value else None for value in values] for end in ("mean", "low", "high")}
    return Series(name, ends["mean"], ends["low"], ends["high"], "marks")


def by_name(
    key: str, title: str, names: Sequence[str], series: Sequence[Series], *, x_name: str, **options: Any
) -> Chart:
    """Make a chart whose x axis is names."""
    x = [float(place) for place in range(len(names))]
    return Chart(key, title, x, series, time=False, x_name=x_name, names=[one_line(name) for name in names], **options)


def reliability_chart(key: str, title: str, bins: Mapping[str, Sequence[Record]]) -> Chart:
    """Draw accuracy against confidence; on the guide both are equal.

    :param bins: by name, in the order of the legend; at most five.
    """
    points = sorted(
        (bin_[CONFIDENCE], bin_[ACCURACY], name) for name, some in bins.items() for bin_ in some if bin_["pairs"]
    )
    x = [confidence for confidence, _, _ in points]
    series = [
        Series(name, [accuracy if name == owner else None for _, accuracy, owner in points], kind="marks")
        for name in list(bins)[: MOST_SERIES - 1]
    ]
    guide = Series("accuracy equals confidence", x, kind="guide")
    return Chart(key, title, x, [*series, guide], time=False, x_name=CONFIDENCE, top=1.05)


def confusion_table(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Lay out pairs by given and predicted grade, with their share of the given grade's.

    :param counts: given grades as rows, predicted grades as columns.
    """
    rows = [
        (name, *(f"{count:,}{_share(count, sum(row))}" for count in row), f"{sum(row):,}")
        for name, row in zip(names, counts, strict=True)
    ]
    return table(title, ("given grade", *(f"predicted: {name}" for name in names), "pairs"), rows)


def _share(count: int, total: int) -> str:
    return f" ({100 * count / total:.0f} %)" if total else ""
