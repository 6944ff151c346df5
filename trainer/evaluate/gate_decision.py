"""The gate's rule for one part: by which bound its order loses nothing, and what counts as a gain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from darl_opensearch.stats.bootstrap import Floats, Interval, mean_over_queries, resample
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.numbers import round_figure
from darl_opensearch.stats.paired import compare_paired, power
from trainer.evaluate.gate_report import (
    AGREEMENT,
    CONTROL,
    LOWER_IS_BETTER,
    ROUNDING,
    Change,
    Condition,
    GainTest,
    GateReport,
)
from trainer.evaluate.gate_words import explain_loss, explain_no_gain
from trainer.evaluate.looks import CONTINUED, FUTILE, LEVEL, NO, STOPPED, YES, Look
from trainer.evaluate.measured import Measured
from trainer.evaluate.parts import JudgedPart
from trainer.evaluate.recalibrated import recalibrated_rps
from trainer.evaluate.settings import GateOptions

FIXED = Look()
LEFT = "left"


def decide_part(
    part: JudgedPart, old: Measured, new: Measured, gains: Sequence[float], options: GateOptions, look: Look = FIXED
) -> Condition:
    """Decide whether a part's order loses no more than is tolerated, and whether the control arm gains.

    :param gains: of the grades.
    :param look: at the control arm; its level replaces that of a single test in every bound and test.
    """
    level = look.levels[0] if part.name == CONTROL else LEVEL
    bound = 0.0 - options.tolerance
    names = [name for name in options.measures if name != "rps" or same_grades(old, new)]
    signs = {name: -1.0 if name in LOWER_IS_BETTER else 1.0 for name in names}
    differences = {name: signs[name] * (new.by_query[name] - old.by_query[name]) for name in names}
    left = None
    if part.name == CONTROL and "rps" in names and old.grading and new.grading:
        left = recalibrated_rps(old.grading, gains) - recalibrated_rps(new.grading, gains)
    values = {f"{at} {name}": side.by_query[name] for at, side in (("old", old), ("new", new)) for name in names}
    values |= {} if left is None else {LEFT: left}
    resampled = resample(
        {key: mean_over_queries(each) for key, each in values.items()}, draws=options.draws, seed=options.seed
    )
    changes = []
    for name in names:
        after, before = signs[name] * new.by_query[name], signs[name] * old.by_query[name]
        claim = compare_paired(after, before, draws=options.draws, seed=options.seed, level=level)
        enough = power(differences[name], bound + AGREEMENT if name == options.measure else 0.0)
        means = {at: resampled[f"{at} {name}"].interval() for at in ("old", "new")}
        changes.append(Change(name, means["old"], means["new"], claim, enough))
    if part.name == CONTROL:
        rest = None if left is None else (resampled[LEFT].interval(level), power(left, 0.0).sd)
        changes = _test_gains(changes, differences, rest, options, look)
    order = changes[0]
    change, reason = order.claim.interval, ""
    if change.n < options.min_queries or not change.low > bound + AGREEMENT:
        reason = explain_loss(part.name, order, bound, options.min_queries)
    elif part.name == CONTROL and not any(tested.gain.holds for tested in changes if tested.gain):
        reason = explain_no_gain(part.name, [tested for tested in changes if tested.gain], options.min_queries)
    return Condition(
        part.name, part.path, part.sha256, part.n_queries, len(part), bound, tuple(changes), not reason,
        reason,
    )  # fmt: skip


def find_yes_chance(control: Condition, look: Look) -> float:
    """Estimate the chance that the control arm will pass at the last look, if what is seen tells of the rest.

    Of the tests that must all hold the least likely counts, of those of which one is enough the likeliest.
    """
    order, tested = control.changes[0], [(change, change.gain) for change in control.changes if change.gain]
    mean, n = order.claim.interval.mean - control.bound - AGREEMENT, order.claim.interval.n
    holds = look.find_chance(mean, order.power.sd, n, 1)
    gains = [0.0]
    for change, gain in tested:
        interval, left = change.claim.interval, gain.left
        chance = look.find_chance(interval.mean, change.power.sd, interval.n, len(tested))
        if left is not None:
            chance = min(chance, look.find_chance(left.mean - ROUNDING, gain.left_sd, left.n, 1))
        gains.append(chance)
    return min(holds, max(gains))


def decide_look(report: GateReport, look: Look) -> dict[str, Any]:
    """Decide whether a look is the last one.

    :return: JSON-ready, with ``decision``: ``yes``, ``no``, ``futile`` or ``continue``. A no before the last look is
        one that no control label can change.
    """
    control = next(part for part in report.conditions if part.part == CONTROL)
    others = all(part.passed for part in report.conditions if part is not control)
    chance = None
    if report.passed:
        decision = YES
    elif look.is_last or not others or any(check.passed is False for check in report.checks):
        decision = NO
    else:
        chance = find_yes_chance(control, look)
        decision = STOPPED if chance < FUTILE else CONTINUED
    measures = {
        change.measure: {
            "change": change.claim.interval.to_json(), "p": round(change.claim.p, 9),
            "level": change.gain.level if change.gain else None,
            "left": change.gain.left.to_json() if change.gain and change.gain.left else None,
        }
        for change in control.changes
    }  # fmt: skip
    seen = {"bound": control.bound, "measures": measures, "chance": None if chance is None else round_figure(chance)}
    return look.to_json() | seen | {"decision": decision}


def same_grades(old: Measured, new: Measured) -> bool:
    """Whether both have predicted grades, and equally many."""
    return old.grading is not None and new.grading is not None and old.grading.k == new.grading.k


def _test_gains(
    changes: Sequence[Change], differences: Mapping[str, Floats], left: tuple[Interval, float] | None,
    options: GateOptions, look: Look,
) -> list[Change]:  # fmt: skip
    """Test the measure of order and the grades for gains, together.

    Holm's procedure, with the levels of the look: Maurer and Bretz 2013 (doi:10.1080/19466315.2013.807748).

    :param left: of the gain in RPS, once both bundles are calibrated alike; and its standard deviation over queries.
    """
    p = {change.measure: change.claim.p for change in changes if change.measure in options.gaining}
    adjusted, found, levels, clear = holm(p), [], dict[str, float](), dict[str, bool]()
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        levels[name] = look.levels[len(p) - rank > 1]
        clear[name] = p[name] <= levels[name] and all(clear.values())
    for change in changes:
        gain = None
        if (name := change.measure) in p:
            is_clear = clear[name] and change.claim.interval.mean > 0
            rest, sd = left if name == "rps" and left else (None, math.nan)
            enough = power(differences[name], 0.0, z=look.quantile(len(p)))
            gain = GainTest(is_clear, adjusted[name], levels[name], rest, sd, enough)
        found.append(dataclasses.replace(change, gain=gain))
    return found
