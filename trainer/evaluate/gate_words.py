"""The gate's reasons for refusal, and its report as terminal text."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from darl_opensearch.stats.bootstrap import Interval
from darl_opensearch.stats.paired import Power
from trainer.evaluate.report.tables import format_cell, name_of

TITLES = {"id": "in-distribution queries", "control": "control arm"}


def explain_refusal(part: str, measure: str, change: Interval, power: Power, bound: float, least: int) -> str:
    """Explain why a condition is not met: a loss, no gain, or too few queries to decide.

    :param bound: value that the lower end of the interval had to exceed.
    """
    title, name = TITLES[part], name_of(measure)
    if change.n < 2 or math.isnan(change.mean):
        return f"{title}: {change.n} queries have a {name} value, too few to decide; at least {least} are needed"
    changes = f"{name} changes by {_signed(change.mean)} [{_signed(change.low)}, {_signed(change.high)}]"
    if change.high < bound:
        return f"{title}: {changes}, which is a loss" + (f" beyond {-bound:g}" if bound else "")
    if power.needed is None:
        wanted = "a gain" if bound == 0 else f"a loss of less than {-bound:g}"
        return f"{title}: {changes} over {change.n} queries, not {wanted}, and more queries are unlikely to show one"
    needed = max(power.needed, least, change.n + 1)
    short = f"; at least {least} are needed" if change.n < least else f", and the lower end must be above {bound:g}"
    return f"{title}: {changes}: {change.n} queries are too few to decide{short}. About {needed:,} should suffice"


def render_decision(result: Mapping[str, Any]) -> str:
    """Render a report for a terminal.

    :param result: output of :meth:`trainer.evaluate.gate.GateReport.to_json`.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, no_color=True, width=200, highlight=False, soft_wrap=True)
    old, new = (f"{side['name']} {side['version']}" for side in (result["old"], result["new"]))
    console.print(f"gate {'passed' if result['passed'] else 'REFUSED'}: {escape(new)} against {escape(old)}\n")
    table = Table(box=box.SIMPLE, pad_edge=False)
    for head, justify in _HEAD:
        table.add_column(head, justify=justify)
    for part in result["conditions"].values():
        for row in _rows(part):
            table.add_row(*map(escape, row))
    console.print(table)
    for check in result["checks"]:
        if check["passed"] is not True:
            console.print(
                f"{'FAIL' if check['passed'] is False else '  ? '}  {escape(check['check'])}: {escape(check['detail'])}"
            )
    passed = sum(check["passed"] is True for check in result["checks"])
    console.print(f"{passed} of {len(result['checks'])} checks of the bundle, its grades and its training data passed")
    for reason in result["reasons"]:
        console.print(f"refused: {escape(reason)}")
    ends = f"95 % intervals: {result['options']['draws']:,} resamples of the queries, seed {result['options']['seed']}"
    console.print(f"{ends}; {result['weights']}")
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").splitlines())


_HEAD: Sequence[tuple[str, Any]] = (
    ("part", "left"), ("measure", "left"), ("queries", "right"), ("old", "right"), ("new", "right"),
    ("change", "right"), ("p", "right"), ("must be above", "right"), ("can show", "right"), ("needed", "right"),
    ("", "left"),
)  # fmt: skip


def _rows(part: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for place, change in enumerate(part["changes"]):
        name = name_of(change["measure"]) + (" (lower is better)" if change["lower_is_better"] else "")
        p, detectable, needed = change["change"]["p"], change["detectable"], change["needed"]
        decides = [f"{part['bound']:g}", "yes" if part["passed"] else "no"] if place == 0 else ["", ""]
        rows.append(
            [
                TITLES[part["part"]] if place == 0 else "", name, f"{change['change']['n']:,}",
                format_cell(change["old"]), format_cell(change["new"]), format_cell(change["change"], signed=True),
                "–" if p is None else f"{p:.4f}", decides[0],
                "–" if detectable is None else f"{detectable:.3f}", "–" if needed is None else f"{needed:,}",
                decides[1],
            ]
        )  # fmt: skip
    return rows


def _signed(value: float) -> str:
    return f"{value:+.4f}"
