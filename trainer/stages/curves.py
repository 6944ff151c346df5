"""``curves.svg``: the losses and the dev RPS of each stage."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from darl_opensearch.errors import load

TRAIN, DEV = "#8a8a8a", "#0b5fa5"


def draw(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """Draw losses and dev RPS of each stage, and the curve of an interpolation, as SVG; empty without any.

    Reproducible byte by byte: no date, and ids from a fixed salt.

    :param outcomes: outcomes of the stages in the run's result.
    """
    shown = [outcome for outcome in outcomes if outcome.get("history") or outcome.get("curve")]
    if not shown:
        return ""
    load("matplotlib", "train")
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(mpl.rcParamsDefault | {"svg.hashsalt": "darl", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(shown), 3.2))
        FigureCanvasSVG(figure)
        figure.subplots_adjust(left=0.55 / (4.2 * len(shown)), right=0.99, bottom=0.15, top=0.9)  # draws once
        for axes, outcome in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            axes.set_title(f"{outcome['stage']}{'' if outcome['kept'] else ' (rolled back)'}")
            axes.spines[["top", "right"]].set_visible(False)
            lines = (_curve if outcome.get("curve") else _losses)(axes, outcome)
            axes.legend(handles=lines, frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _losses(axes: Any, outcome: Mapping[str, Any]) -> list[Any]:
    """Plot losses to the left; the dev RPS has its own scale to the right."""
    axes.set_xlabel("step")
    lines = []
    for key, label, colour in (
        ("train_loss", "training loss", TRAIN), ("dev_loss", "dev loss", DEV), ("dev_rps", "dev RPS (right)", DEV)
    ):  # fmt: skip
        rows = [(row["step"], row[key]) for row in outcome["history"] if row.get(key) is not None]
        if not rows:
            continue
        own = axes
        if key == "dev_rps":
            own = axes.twinx()
            own.spines["top"].set_visible(False)
        lines += own.plot([step for step, _ in rows], [y for _, y in rows], color=colour, marker=".", label=label)
    return lines


def _curve(axes: Any, outcome: Mapping[str, Any]) -> list[Any]:
    coefficients = [point["coefficient"] for point in outcome["curve"]]
    for key, label, colour in (("id_rps", "ID dev RPS", TRAIN), ("ood_rps", "OOD dev RPS", DEV)):
        axes.plot(coefficients, [point[key] for point in outcome["curve"]], color=colour, marker=".", label=label)
    axes.axvline(outcome["coefficient"], color="black", linewidth=0.8, linestyle=":", label="chosen")
    axes.set_xlabel("coefficient")
    return list(axes.lines)
