"""The gate: may a new bundle replace an old one?

Both bundles score the same judged pairs with the exported graphs that serve, never with the model before its export.
The gate passes if the order of both parts loses no more than a tolerance, the control arm gains in order or in grades,
the bundle is sound, and grades and item texts mean the same as before. The loss is a bound on a 95 % interval over
queries; the gains are tested together (Holm), and a gain in grades must not be one of calibration alone. With too few
queries the gate refuses, and the report says how many would be enough.

Control queries are sampled in proportion to traffic, so a plain mean over them is the mean over requests; weighting
them by traffic would count it twice.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle, Card
from darl_opensearch.check import check_bundle
from darl_opensearch.errors import InputError, UsageError, load
from darl_opensearch.graph_contract import Finding
from darl_opensearch.io.jsonl import check_rereadable, read_jsonl
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import digest_records, read_judgments
from darl_opensearch.stats.bootstrap import Floats, Interval, mean_over_queries, resample
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.paired import Z_BOUND, Z_HALVED, compare_paired, power
from darl_opensearch.text import ItemRenderer
from trainer.data import leakage
from trainer.evaluate.gate_report import CONTROL, LOWER_IS_BETTER, Change, Condition, GainTest, GateReport
from trainer.evaluate.gate_words import explain_loss, explain_no_gain
from trainer.evaluate.measured import Measured, Scale, measure
from trainer.evaluate.parts import ID, JudgedPart, read_catalogue, read_part
from trainer.evaluate.recalibrated import recalibrated_rps
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.scoring import Report, make_names_unique, score_parts
from trainer.evaluate.settings import GateOptions
from trainer.evaluate.systems import open_bundle

ReadItems = Callable[[ItemRenderer], dict[str, Item]]
LEVEL = 0.05  # two-sided: a false gain has half of it


def gate(
    old: Bundle,
    new: Bundle,
    *,
    items: Path | Sequence[Path],
    id_test: Path,
    control: Path,
    options: GateOptions | None = None,
    report: Report = lambda what, done, total: None,
    score_cache: ScoreCache | None = None,
) -> GateReport:
    """Decide whether a new bundle may replace an old one.

    :param items: JSONL with every judged item; one file or several.
    :param id_test: judgments of in-distribution queries that neither bundle was trained on.
    :param control: judgments of the control arm: a random sample of traffic, never selected or trained on.
    :param score_cache: scores of bundles to reuse and extend.
    :raises InputError: for unreadable files, or control judgments of another arm.
    :raises UsageError: for a measure that is undefined for these grades.
    """
    options = options or GateOptions()
    load("ir_measures", "train")  # before minutes of scoring, not after
    paths = (items,) if isinstance(items, Path) else tuple(items)
    for path in (*paths, id_test, control, *options.train):
        check_rereadable(path)
    _check_files(id_test, control)
    report("checking", 0, 1)
    checks = [Finding(f"new bundle, {check.check}", check.passed, check.detail) for check in check_bundle(new.path)]
    checks += _check_meaning(old, new, options.changed)
    files, blank = {ID: id_test, CONTROL: control}, Counter[str]()
    measured, catalogue = _measure_parts(
        old, new, lambda renderer: read_catalogue(paths, renderer, blank), files, options, report, score_cache, blank
    )
    checks += _check_training_data(new, [part for part, _, _ in measured], catalogue, blank, options)
    conditions = [decide_part(part, before, after, new.card.scale.gains, options) for part, before, after in measured]
    report("measuring", 1, 1)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return GateReport(old, new, options, tuple(conditions), tuple(checks), created, blank)


def measure_spread(
    old: Bundle, new: Bundle, *, items: ReadItems, judgments: Path, options: GateOptions,
    blank: Counter[str], report: Report = lambda what, done, total: None,
) -> dict[str, float]:  # fmt: skip
    """Measure the standard deviation over queries of the differences between two bundles, by measure.

    :param items: reads the judged items as a bundle renders them.
    :param blank: ids of items without text, which that gets; their judgments are counted here and passed over.
    """
    [(_, before, after)], _ = _measure_parts(old, new, items, {ID: judgments}, options, report, None, blank)
    measures = [name for name in options.gaining if name != "rps" or _same_grades(before, after)]
    return {name: power(after.by_query[name] - before.by_query[name], 0.0).sd for name in measures}


def _measure_parts(
    old: Bundle, new: Bundle, items: ReadItems, files: Mapping[str, Path], options: GateOptions, report: Report,
    score_cache: ScoreCache | None, blank: Counter[str],
) -> tuple[list[tuple[JudgedPart, Measured, Measured]], Mapping[str, Item]]:  # fmt: skip
    """Score and measure the parts with both bundles.

    :param items: reads the judged items as a bundle renders them.
    :param files: of the parts, by name.
    :return: each part with the figures of both, and the items.
    """
    scale = Scale.of(new.card.scale.gains, options.cutoffs, options.relevant_from, where="relevant_from")
    with ExitStack() as stack:
        systems = []
        for bundle in (old, new):
            systems.append(open_bundle(
                bundle.path, items, int8=options.int8, provider=options.provider, threads=options.threads,
                score_cache=score_cache,
            ))  # fmt: skip
            stack.callback(systems[-1].scorer.close)
        catalogue = systems[1].items
        parts = [
            read_part(name, path, catalogue, new.card.scale.k, seed=options.seed, blank=blank)
            for name, path in files.items()
        ]
        named = make_names_unique(systems)
        scored = score_parts(named, parts, report)
    report("measuring", 0, 1)
    before, after = ([measure(part, scored[one.name, part.name].judged, scale) for part in parts] for one in named)
    return list(zip(parts, before, after, strict=True)), catalogue


def decide_part(
    part: JudgedPart, old: Measured, new: Measured, gains: Sequence[float], options: GateOptions
) -> Condition:
    """Decide whether a part's order loses no more than is tolerated, and whether the control arm gains.

    :param gains: of the grades.
    """
    changes, bound = [], 0.0 - options.tolerance
    for name in options.measures:
        if name == "rps" and not _same_grades(old, new):
            continue
        sign = -1.0 if name in LOWER_IS_BETTER else 1.0
        before, after = old.by_query[name], new.by_query[name]
        claim = compare_paired(sign * after, sign * before, draws=options.draws, seed=options.seed)
        enough = power(sign * (after - before), bound if name == options.measure else 0.0)
        changes.append(Change(name, _mean(before, options), _mean(after, options), claim, enough))
    if part.name == CONTROL:
        changes = _test_gains(changes, old, new, gains, options)
    order = changes[0]
    change, reason = order.claim.interval, ""
    if change.n < options.min_queries or not change.low > bound:
        reason = explain_loss(part.name, order, bound, options.min_queries)
    elif part.name == CONTROL and not any(tested.gain.holds for tested in changes if tested.gain):
        reason = explain_no_gain(part.name, [tested for tested in changes if tested.gain], options.min_queries)
    return Condition(
        part.name, part.path, part.sha256, part.n_queries, len(part), bound, tuple(changes), not reason,
        reason,
    )  # fmt: skip


def _test_gains(
    changes: Sequence[Change], old: Measured, new: Measured, gains: Sequence[float], options: GateOptions
) -> list[Change]:
    """Test the measure of order and the grades for gains, together."""
    tested = [change for change in changes if change.measure in options.gaining]
    adjusted = holm({change.measure: change.claim.p for change in tested})
    z = Z_HALVED if len(tested) > 1 else Z_BOUND
    found = []
    for change in changes:
        name, gain = change.measure, None
        if change in tested:
            sign, left = 1.0, None
            if name == "rps" and old.grading and new.grading:
                sign = -1.0
                before, after = (recalibrated_rps(side, gains) for side in (old.grading, new.grading))
                left = _mean(before - after, options)
            clear = adjusted[name] <= LEVEL and change.claim.interval.mean > 0
            enough = power(sign * (new.by_query[name] - old.by_query[name]), 0.0, z=z)
            gain = GainTest(clear, adjusted[name], left, enough)
        found.append(dataclasses.replace(change, gain=gain))
    return found


def _same_grades(old: Measured, new: Measured) -> bool:
    return old.grading is not None and new.grading is not None and old.grading.k == new.grading.k


def _mean(values: Floats, options: GateOptions) -> Interval:
    return resample({"mean": mean_over_queries(values)}, draws=options.draws, seed=options.seed)["mean"].interval()


def _check_files(id_test: Path, control: Path) -> None:
    """Refuse one file given for both parts, and control judgments of another arm, which is trained on."""
    if id_test.exists() and control.exists() and id_test.samefile(control):
        raise UsageError(
            "the same file is given for both parts", where=str(control),
            todo="give held-out in-distribution queries for one and the judged control arm for the other",
        )  # fmt: skip
    for where, row in read_jsonl(control):
        arm = row.get("arm")
        if arm is not None and arm != CONTROL:
            raise InputError(
                f"this judgment belongs to the arm {arm!r}", where=f"{where}, field 'arm'",
                todo="give only judgments of the control arm: the selected arm is trained on",
            )  # fmt: skip


def _check_meaning(old: Bundle, new: Bundle, changed: str) -> list[Finding]:
    """Check that grades and item texts mean the same as before; a stated reason makes a change intended."""
    new_card, old_card = new.card, old.card
    findings = []
    for check, before, after, hint in (
        ("grades", _gains_by_name(old_card), _gains_by_name(new_card), ""),
        ("template", dataclasses.asdict(old_card.template), dataclasses.asdict(new_card.template),
         "; reload the index with the new one"),
    ):  # fmt: skip
        if before == after:
            findings.append(Finding(check, True, "same as the old bundle's"))
        elif changed:
            findings.append(Finding(check, True, f"differs from the old bundle's, because: {changed}{hint}"))
        else:
            findings.append(Finding(check, False, f"{after} is not the old bundle's {before}{hint}"))
    return findings


def _gains_by_name(card: Card) -> dict[str, float]:
    return dict(zip(card.scale.names, card.scale.gains, strict=True))


def _check_training_data(
    new: Bundle, parts: Sequence[JudgedPart], items: Mapping[str, Item], blank: Iterable[str], options: GateOptions
) -> list[Finding]:
    """Check as far as possible that the new bundle was not trained on its test data."""
    findings = []
    trained: Mapping[str, Any] = new.card.training.get("data") or {}
    digests = {part["sha256"]: name for name, part in trained.items() if isinstance(part, dict) and "sha256" in part}
    for part in parts:
        # Read again: read_part shuffles items, but the trainer digests queries in file order.
        passed_over = Counter(dict.fromkeys(blank, 0))
        if name := digests.get(digest_records(read_judgments(part.path, items, new.card.scale.k, passed_over))):
            findings.append(
                Finding(f"training data, {part.name}", False, f"this part is the bundle's own {name!r} part")
            )
    if not options.train:
        detail = "its training files are not named (--train), so shared queries would go unnoticed"
        return [*findings, Finding("training data", None, detail)]
    for path, part in itertools.product(options.train, parts):
        trained_part = leakage.Part.of_file(path)
        shared = leakage.find_leaks(trained_part, leakage.Part.of_judged(str(part.path), part.queries))
        leaks = shared.find_refused(options.allow)
        detail = "; ".join(leakage.describe_leak(leak, shared.counts[leak.kind]) for leak in leaks)
        findings.append(Finding(f"training data, {part.name}", not leaks, detail or f"no query of {path} is in it"))
    return findings
