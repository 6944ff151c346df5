"""The gate: may a new bundle replace an old one?

Both bundles score the same judged pairs with the exported graphs that serve, never with the model before its export.
The gate passes if in-distribution queries lose no more than a tolerance, the control arm gains, the bundle is sound,
and grades and item texts mean the same as before. Loss and gain are bounds on a 95 % interval over queries: with too
few queries the gate refuses, and the report says how many would be enough.

Control queries are sampled in proportion to traffic, so a plain mean over them is the mean over requests; weighting
them by traffic would count it twice.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
from darl_opensearch.stats.numbers import round_figure
from darl_opensearch.stats.paired import Claim, Power, compare_paired, power
from darl_opensearch.version import __version__
from trainer.data import leakage
from trainer.evaluate.gate_words import explain_refusal
from trainer.evaluate.measured import Measured, Scale, measure
from trainer.evaluate.parts import ID, JudgedPart, read_catalogue, read_part
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.scoring import Report, make_names_unique, score_parts
from trainer.evaluate.settings import GateOptions
from trainer.evaluate.systems import open_bundle

FORMAT = 1
CONTROL = "control"
LOWER_IS_BETTER = frozenset({"rps"})


@dataclass(frozen=True)
class Change:
    """One measure on one part, old against new.

    :param claim: the paired change, positive where the new bundle is better.
    """

    measure: str
    old: Interval
    new: Interval
    claim: Claim
    power: Power

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {
            "measure": self.measure,
            "lower_is_better": self.measure in LOWER_IS_BETTER,
            "old": self.old.to_json(),
            "new": self.new.to_json(),
            "change": self.claim.interval.to_json() | {"p": round_figure(self.claim.p)},
            "sd": round_figure(self.power.sd),
            "detectable": round_figure(self.power.detectable),
            "needed": self.power.needed,
        }


@dataclass(frozen=True)
class Condition:
    """The requirement that the change on a part is above a bound.

    :param part: ``id`` or ``control``.
    :param bound: value that the lower end of the interval must exceed.
    :param changes: the deciding measure first.
    """

    part: str
    path: Path
    sha256: str
    queries: int
    pairs: int
    bound: float
    changes: tuple[Change, ...]
    passed: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {
            "part": self.part, "path": str(self.path), "sha256": self.sha256, "queries": self.queries,
            "pairs": self.pairs, "bound": self.bound, "passed": self.passed, "reason": self.reason or None,
            "changes": [change.to_json() for change in self.changes],
        }  # fmt: skip


@dataclass(frozen=True)
class GateReport:
    """The gate's decision and the figures behind it.

    :param conditions: ``id``, then ``control``.
    :param checks: of the bundle's contract and parity, its grades and its training data.
    """

    old: Bundle
    new: Bundle
    options: GateOptions
    conditions: tuple[Condition, ...]
    checks: tuple[Finding, ...]
    created: str

    @property
    def passed(self) -> bool:
        """Whether the new bundle may be released."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate refuses, one clause per reason; empty if it passed."""
        failed = [f"{check.check}: {check.detail}" for check in self.checks if check.passed is False]
        return (*failed, *(part.reason for part in self.conditions if not part.passed))

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json`` and ``gate.json``."""
        options = {name: value for name, value in vars(self.options).items() if name != "train"}
        return {
            "format": FORMAT,
            "darl": __version__,
            "created": self.created,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "old": _describe(self.old),
            "new": _describe(self.new),
            "measure": self.options.measure,
            "tolerance": self.options.tolerance,
            "weights": "plain means over queries: the control arm was drawn by traffic",
            "options": options | {"allow": list(self.options.allow), "train": list(map(str, self.options.train))},
            "conditions": {condition.part: condition.to_json() for condition in self.conditions},
            "checks": [check.to_json() for check in self.checks],
        }


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
    scale = Scale.of(new.card.scale.gains, options.cutoffs, options.relevant_from, where="relevant_from")
    with ExitStack() as stack:
        systems = []
        for bundle in (old, new):
            systems.append(
                open_bundle(
                    bundle.path,
                    lambda renderer: read_catalogue(paths, renderer),
                    int8=options.int8,
                    provider=options.provider,
                    threads=options.threads,
                    score_cache=score_cache,
                )
            )
            stack.callback(systems[-1].scorer.close)
        catalogue = systems[1].items
        parts = [
            read_part(name, path, catalogue, new.card.scale.k, seed=options.seed)
            for name, path in ((ID, id_test), (CONTROL, control))
        ]
        checks += _check_training_data(new, parts, catalogue, options)
        named = make_names_unique(systems)
        scored = score_parts(named, parts, report)
    report("measuring", 0, 1)
    conditions = []
    for part, bound in zip(parts, (-options.tolerance, 0.0), strict=True):
        before, after = (measure(part, scored[system.name, part.name].judged, scale) for system in named)
        conditions.append(_condition(part, before, after, bound, options))
    report("measuring", 1, 1)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return GateReport(old, new, options, tuple(conditions), tuple(checks), created)


def _condition(part: JudgedPart, old: Measured, new: Measured, bound: float, options: GateOptions) -> Condition:
    changes = []
    for name in options.measures:
        if name == "rps" and not _same_grades(old, new):
            if name == options.measure:
                raise UsageError(
                    "rps needs bundles with the same number of grades",
                    todo="decide by a ranking measure, such as ndcg@10",
                )
            continue
        before, after = old.by_query[name], new.by_query[name]
        sign = -1.0 if name in LOWER_IS_BETTER else 1.0
        claim = compare_paired(sign * after, sign * before, draws=options.draws, seed=options.seed)
        enough = power(sign * (after - before), bound if name == options.measure else 0.0)
        changes.append(Change(name, _mean(before, options), _mean(after, options), claim, enough))
    decides = changes[0]
    change = decides.claim.interval
    passed = change.n >= options.min_queries and change.low > bound
    reason = "" if passed else explain_refusal(
        part.name, decides.measure, change, decides.power, bound, options.min_queries
    )  # fmt: skip
    return Condition(
        part.name, part.path, part.sha256, part.n_queries, len(part), bound, tuple(changes), passed, reason
    )


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
    new: Bundle, parts: Sequence[JudgedPart], items: Mapping[str, Item], options: GateOptions
) -> list[Finding]:
    """Check as far as possible that the new bundle was not trained on its test data."""
    findings = []
    trained: Mapping[str, Any] = new.card.training.get("data") or {}
    digests = {part["sha256"]: name for name, part in trained.items() if isinstance(part, dict) and "sha256" in part}
    for part in parts:
        # Read again: read_part shuffles items, but the trainer digests queries in file order.
        if name := digests.get(digest_records(read_judgments(part.path, items, new.card.scale.k))):
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


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.card.name, "version": bundle.card.version, "path": str(bundle.path),
        "identity": bundle.identity,
    }  # fmt: skip
