"""Charts of an evaluation as inline SVG: no links, fonts or scripts, legible in any colour scheme."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.errors import load, one_line
from trainer.evaluate.report.tables import name_of

# Each has a contrast of at least 3 on white and on black. Markers distinguish what colours alone may not.
COLOURS = ("#3b82f6", "#d97706", "#059669", "#a855f7", "#dc2626", "#0891b2", "#db2777", "#65a30d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#010203"  # stands for the page's own text colour until the picture is finished
MOST_SLICES = 30  # a taller chart is unreadable
_OWN_NAMES = re.compile(r'(<g) id="[^"]*"')
_NAMESPACES = re.compile(r' xmlns(:\w+)?="[^"]*"')  # HTML knows what <svg> is


@dataclass(frozen=True)
class Picture:
    """A drawing."""

    title: str
    svg: str


def draw_pictures(result: Mapping[str, Any]) -> list[Picture]:
    """Draw the charts of an evaluation.

    :raises MissingExtra: without matplotlib.
    """
    last = f"ndcg@{result['cutoffs'][-1]}"
    title = name_of(last)
    drawings = [_draw(f"{title} by part, with 95 % intervals", _figures(result, "figures", last))]
    if any("reliability" in row for row in result["figures"]):
        drawings.append(_draw("Reliability: confidence in the predicted grade against its accuracy", _bins(result)))
    if result["depths"]:
        drawings.append(_draw(f"{title} by rerank depth", _depths(result, last)))
    if result["slices"]:
        many = len({_label(row) for row in result["slices"]}) > MOST_SLICES
        which = f"the {MOST_SLICES} slices with most pairs" if many else "slice"
        drawings.append(_draw(f"{title} by {which}, with 95 % intervals", _figures(result, "slices", last)))
    return drawings


def _draw(title: str, draw: Callable[[Any], None]) -> Picture:
    matplotlib = load("matplotlib", "train")
    figures = load("matplotlib.figure", "train")
    style = {
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "svg.hashsalt": title,  # reproducible ids, different for each chart
        "text.parse_math": False,  # a $ in a name is a $
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    }
    out = io.StringIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Glyphs are needed only to measure text; the browser has those that matplotlib lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = figures.Figure(layout="constrained")
        draw(figure)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _OWN_NAMES.sub(r"\1", svg)  # every chart has an axes_1, but ids must be unique in a page
    svg = _NAMESPACES.sub("", svg).replace("xlink:href", "href")
    return Picture(title, svg.replace(INK, "currentColor").strip())


def _figures(result: Mapping[str, Any], rows: str, figure: str) -> Callable[[Any], None]:
    """Draw a line per part or slice, with a mark per system."""
    pairs = {_label(row): row["pairs"] for row in result[rows]}
    largest = sorted(pairs, key=lambda label: -pairs[label])[:MOST_SLICES]
    labels = [label for label in pairs if label in largest]
    systems = _systems(result)

    def draw(picture: Any) -> None:
        picture.set_size_inches(7.5, 1.2 + 0.28 * len(labels) * max(1, len(systems)) ** 0.7)
        axes = picture.add_subplot()
        for row in result[rows]:
            place, value = systems.index(row["system"]), row["figures"].get(figure)
            if value is None or value["mean"] is None or _label(row) not in labels:
                continue
            y = labels.index(_label(row)) + (place - (len(systems) - 1) / 2) * 0.7 / len(systems)
            _mark(axes, value, y, place)
        axes.set_yticks(range(len(labels)), [one_line(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlabel(name_of(figure))
        axes.grid(axis="x", color=INK, alpha=0.15)
        _legend(picture, axes, systems)

    return draw


def _mark(axes: Any, value: Mapping[str, Any], y: float, place: int) -> None:
    style = _style(place)
    if value["low"] is not None:
        axes.plot([value["low"], value["high"]], [y, y], color=style["color"], linewidth=1.5)
    axes.plot([value["mean"]], [y], **style, markersize=5, linestyle="none")


def _style(place: int) -> dict[str, str]:
    """Return a system's colour and marker."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def _bins(result: Mapping[str, Any]) -> Callable[[Any], None]:
    """Draw a square per part; on the diagonal, confidence equals accuracy."""
    parts = [part["name"] for part in result["parts"]]
    graded = [row for row in result["figures"] if "reliability" in row]
    systems = _systems(result)

    def draw(picture: Any) -> None:
        picture.set_size_inches(max(4.5, 3.2 * len(parts)), 3.6)
        for place, part in enumerate(parts, start=1):
            axes = picture.add_subplot(1, len(parts), place)
            axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1, linestyle="--")
            for row in (row for row in graded if row["part"] == part):
                x, y = ([bin_[name] for bin_ in row["reliability"]] for name in ("confidence", "accuracy"))
                axes.plot(x, y, **_style(systems.index(row["system"])), markersize=4, linewidth=1)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.set_aspect("equal")
            axes.set_title(part, fontsize=10)
            axes.set_xlabel("confidence")
            axes.set_ylabel("accuracy")
        _legend(picture, picture.axes[0], systems, only={row["system"] for row in graded})

    return draw


def _depths(result: Mapping[str, Any], figure: str) -> Callable[[Any], None]:
    """Draw a line per system and part."""
    systems, parts = _systems(result), [part["name"] for part in result["parts"]]

    def draw(picture: Any) -> None:
        picture.set_size_inches(max(4.5, 3.6 * len(parts)), 3.4)
        for place, part in enumerate(parts, start=1):
            axes = picture.add_subplot(1, len(parts), place)
            for number, system in enumerate(systems):
                rows = [row for row in result["depths"] if (row["system"], row["part"]) == (system, part)]
                points = [(row["depth"], row["figures"][figure]) for row in rows]
                points = [(depth, value) for depth, value in points if value["mean"] is not None]
                if not points:
                    continue
                x, style = [depth for depth, _ in points], _style(number)
                axes.plot(x, [value["mean"] for _, value in points], **style, markersize=4, linewidth=1.2)
                if all(value["low"] is not None for _, value in points):
                    low, high = ([value[end] for _, value in points] for end in ("low", "high"))
                    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
            axes.set_title(part, fontsize=10)
            axes.set_xlabel("items reranked")
            axes.set_ylabel(name_of(figure))
            axes.grid(color=INK, alpha=0.15)
        _legend(picture, picture.axes[0], systems, only={row["system"] for row in result["depths"]})

    return draw


def _legend(picture: Any, axes: Any, systems: Sequence[str], only: set[str] | None = None) -> None:
    """Draw the legend below the chart, so that it hides no point."""
    places = [place for place, system in enumerate(systems) if only is None or system in only]
    handles = [axes.plot([], [], **_style(place), linewidth=1.2)[0] for place in places]
    shown = [one_line(systems[place]) for place in places]
    picture.legend(handles, shown, loc="outside lower center", ncols=min(3, len(shown)), frameon=False, fontsize=9)


def _systems(result: Mapping[str, Any]) -> list[str]:
    return [system["name"] for system in result["systems"]]


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['part']}: {row['slice'] or '(none)'}" if "slice" in row else str(row["part"])
