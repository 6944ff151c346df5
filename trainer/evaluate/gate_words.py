"""The gate's reasons for refusal, and its report as terminal text."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from darl_opensearch.stats.bootstrap import Interval
from trainer.evaluate.gate_report import AGREEMENT, Change
from trainer.evaluate.looks import LEVEL
from trainer.evaluate.report.tables import format_cell, name_of

_NONE = "unlikely to show one"
TITLES = {"id": "in-distribution queries", "control": "control arm"}


def explain_loss(part: str, order: Change, bound: float, least: int) -> str:
    """Explain why the order of a part does not hold: a loss, or too few queries to exclude one.

    :param bound: value that the lower end of the interval had to exceed, by what machines may differ.
    :param least: minimum number of queries.
    """
    title, name, change, power = TITLES[part], name_of(order.measure), order.claim.interval, order.power
    if change.n < 2 or math.isnan(change.mean):
        return f"{title}: {change.n} queries have a {name} value, too few to decide; at least {least} are needed"
    changes = f"{name} changes by {_changes(change)}"
    if change.high < bound:
        return f"{title}: {changes}, which is a loss beyond {abs(bound):g}"
    if power.needed is None:
        what = f"so a loss of {abs(bound):g} or more is not excluded, and more queries would hardly change that"
        return f"{title}: {changes} over {change.n} queries, {what}"
    enough = f"About {max(power.needed, least, change.n + 1):,} should suffice"
    if change.n >= least and abs(change.low - bound) <= AGREEMENT:
        near = f"the lower end is within {AGREEMENT:g} of {bound:g}, which is as near as machines agree"
        return f"{title}: {changes} over {change.n} queries: undecided, since {near}. {enough}"
    short = f"; at least {least} are needed" if change.n < least else f", and the lower end must be above {bound:g}"
    return f"{title}: {changes}: {change.n} queries are too few to decide{short}. {enough}"


def explain_no_gain(part: str, tested: Sequence[Change], least: int) -> str:
    """Explain why no measure shows a gain, and how many queries would be enough.

    :param tested: measures whose gain decides.
    :param least: minimum number of queries.
    """
    found, enough = [], []
    for change in tested:
        gain, interval = change.gain, change.claim.interval
        if gain is None:
            continue
        text = f"{name_of(change.measure)} {_changes(interval)} (p = {gain.p:.3f})"
        if gain.left is not None:
            text += f", {_changes(gain.left)} once both bundles are calibrated alike"
        if not gain.clear and gain.power.needed is not None and (gain.left is None or gain.left.mean > 0):
            enough.append((max(gain.power.needed, least, interval.n + 1), name_of(change.measure)))
        found.append(text)
    more = "more queries are " + _NONE
    if enough:
        count, name = min(enough)
        more = f"about {count:,} should suffice in {name}"
    over = f"no clear gain over {tested[0].claim.interval.n} queries"
    return f"{TITLES[part]}: {over}: {', '.join(found)}; {more}"


def render_decision(result: Mapping[str, Any]) -> str:
    """Render a report for a terminal.

    :param result: output of :meth:`trainer.evaluate.gate_report.GateReport.to_json`.
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
    for row in lay_out_gate(result)[1]:
        table.add_row(*map(escape, row))
    console.print(table)
    for check in result["checks"]:
        if check["passed"] is not True:
            console.print(
                f"{'FAIL' if check['passed'] is False else '  ? '}  {escape(check['check'])}: {escape(check['detail'])}"
            )
    passed = sum(check["passed"] is True for check in result["checks"])
    console.print(f"{passed} of {len(result['checks'])} checks of the bundle, its grades and its training data passed")
    for look in result["looks"]:
        console.print(escape(_describe_look(look)))
    if result["passed"] and result["decided"]:
        console.print(result["decided"])
    for reason in result["reasons"]:
        console.print(f"refused: {escape(reason)}")
    pairs = sum(part["pairs"] for part in result["conditions"].values())
    lost = sum(result["without_text"].values())
    console.print(f"joined with the items: {pairs:,} judgments matched, {lost:,} did not")
    level = result["looks"][-1]["level"] if result["looks"] else LEVEL
    of_look = f"; on the control arm {100 * (1 - level):.4g} %, that of the look" if result["looks"] else ""
    options = result["options"]
    ends = f"95 % intervals{of_look}: {options['draws']:,} resamples of the queries, seed {options['seed']}"
    console.print(f"{ends}; p of gains by Holm; {result['weights']}")
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").splitlines())


_HEAD: Sequence[tuple[str, Any]] = (
    ("part", "left"), ("measure", "left"), ("queries", "right"), ("old", "right"), ("new", "right"),
    ("change", "right"), ("p", "right"), ("must be above", "right"), ("can show", "right"), ("needed", "right"),
    ("", "left"),
)  # fmt: skip


def lay_out_gate(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lay out the changes on each part, and the gains that are tested, as cells.

    :param result: output of :meth:`trainer.evaluate.gate_report.GateReport.to_json`.
    :return: the head, whose first two columns are names, and the rows.
    """
    least = result["options"]["min_queries"]
    return [head for head, _ in _HEAD], [row for part in result["conditions"].values() for row in _rows(part, least)]


def _rows(part: Mapping[str, Any], least: int) -> list[list[str]]:
    """Lay out a part: the changes, the first of which must be no loss, then the gains that are tested."""
    rows, gains = [], []
    for place, change in enumerate(part["changes"]):
        name, interval, gain = name_of(change["measure"]), change["change"], change["gain"]
        order = " (lower is better)" if change["lower_is_better"] else ""
        holds = interval["low"] is not None and interval["low"] > part["bound"] + AGREEMENT and interval["n"] >= least
        rows.append([
            TITLES[part["part"]] if place == 0 else "", name + order,
            f"{interval['n']:,}", format_cell(change["old"]), format_cell(change["new"]),
            format_cell(interval, signed=True), _p(interval["p"]),
            *([f"{part['bound'] + AGREEMENT:g}", *_power(change), _yes(holds)] if place == 0 else [""] * 4),
        ])  # fmt: skip
        if gain:
            left = format_cell(gain["left"], signed=True) if gain["left"] else ""
            what = f"gain in {name}" + (", calibrated alike" if left else "")
            gains.append(["", what, "", "", "", left, _p(gain["p"]), "0", *_power(gain), _yes(gain["holds"])])
    return rows + gains


def _describe_look(look: Mapping[str, Any]) -> str:
    """Describe what a look saw and decided."""
    seen = ", ".join(
        f"{name_of(name)} {_changes(Interval(**found['change']))}"
        + (f" (p {found['p']:.4g}, level {found['level']:.2g})" if found["level"] is not None else "")
        for name, found in look["measures"].items()
    )
    chance = "" if look["chance"] is None else f", chance of a yes {100 * look['chance']:.0f} %"
    return f"look {look['look']} of {look['of']}, {look['queries']:,} queries: {seen}{chance}: {look['decision']}"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _power(figures: Mapping[str, Any]) -> tuple[str, str]:
    detectable, needed = figures["detectable"], figures["needed"]
    return "–" if detectable is None else f"{detectable:.3f}", "–" if needed is None else f"{needed:,}"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _changes(change: Interval) -> str:
    return f"{_signed(change.mean)} [{_signed(change.low)}, {_signed(change.high)}]"


def _signed(value: float) -> str:
    return f"{value:+.4f}"
