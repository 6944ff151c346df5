"""The gate: may a new bundle replace an old one?

Both bundles score the same judged pairs with the exported graphs that serve, never with the model before its export.
The gate passes if the order of both parts loses no more than a tolerance, the control arm gains in order or in grades,
the bundle is sound, and grades and item texts mean the same as before. The loss is a bound on a 95 % interval over
queries; the gains are tested together (Holm), and a gain in grades must not be one of calibration alone. With too few
queries the gate refuses, and the report says how many would be enough. A cycle may look at the control arm several
times while it is judged; each look then has a level of its own.

Control queries are sampled in proportion to traffic, so a plain mean over them is the mean over requests; weighting
them by traffic would count it twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from darl_opensearch.bundle import Bundle
from darl_opensearch.check import check_bundle
from darl_opensearch.errors import load
from darl_opensearch.graph_contract import Finding
from darl_opensearch.io.jsonl import check_rereadable
from darl_opensearch.records.items import Item
from darl_opensearch.stats.paired import power
from darl_opensearch.text import ItemRenderer
from trainer.evaluate.gate_checks import check_meaning, check_parts, check_training_data
from trainer.evaluate.gate_decision import FIXED, decide_part, same_grades
from trainer.evaluate.gate_report import CONTROL, GateReport
from trainer.evaluate.looks import Look
from trainer.evaluate.measured import Measured, Scale, measure
from trainer.evaluate.parts import ID, JudgedPart, read_catalogue, read_part
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.scoring import Report, make_names_unique, score_parts
from trainer.evaluate.settings import GateOptions
from trainer.evaluate.systems import open_bundle

ReadItems = Callable[[ItemRenderer], dict[str, Item]]


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
    look: Look = FIXED,
) -> GateReport:
    """Decide whether a new bundle may replace an old one.

    :param items: JSONL with every judged item; one file or several.
    :param id_test: judgments of in-distribution queries that neither bundle was trained on.
    :param control: judgments of the control arm: a random sample of traffic, never selected or trained on.
    :param score_cache: scores of bundles to reuse and extend.
    :param look: at the control arm, of which ``control`` then has the share that is judged.
    :raises InputError: for unreadable files, or control judgments of another arm.
    :raises UsageError: for a measure that is undefined for these grades.
    """
    options = options or GateOptions()
    load("ir_measures", "train")  # before minutes of scoring, not after
    paths = (items,) if isinstance(items, Path) else tuple(items)
    for path in (*paths, id_test, control, *options.train):
        check_rereadable(path)
    check_parts(id_test, control)
    report("checking", 0, 1)
    checks = [Finding(f"new bundle, {check.check}", check.passed, check.detail) for check in check_bundle(new.path)]
    checks += check_meaning(old, new, options.changed)
    files, blank = {ID: id_test, CONTROL: control}, Counter[str]()
    measured, catalogue = _measure_parts(
        old, new, lambda renderer: read_catalogue(paths, renderer, blank), files, options, report, score_cache, blank
    )
    checks += check_training_data(new, [part for part, _, _ in measured], catalogue, blank, options)
    conditions = [
        decide_part(part, before, after, new.card.scale.gains, options, look) for part, before, after in measured
    ]
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
    measures = [name for name in options.gaining if name != "rps" or same_grades(before, after)]
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
