"""The gate's report: the change of each measure on each part, what had to hold, and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.graph_contract import Finding
from darl_opensearch.stats.bootstrap import Interval
from darl_opensearch.stats.numbers import round_figure
from darl_opensearch.stats.paired import Claim, Power
from darl_opensearch.version import __version__
from trainer.evaluate.looks import describe_last
from trainer.evaluate.settings import GateOptions

FORMAT = 1
CONTROL = "control"
LOWER_IS_BETTER = frozenset({"rps"})
ROUNDING = 1e-5  # of RPS: nothing is left of a gain that is not above it
AGREEMENT = 0.002  # of a measure of order: what thread counts and instruction sets may change a difference by


@dataclass(frozen=True)
class GainTest:
    """The test for a gain on the control arm.

    :param clear: whether the change's own p is at most ``level``, and so is that of each test before it.
    :param p: two-sided, adjusted for all measures that are tested (Holm).
    :param level: of the test in Holm's order, and of the look.
    :param left: of a gain in grades, what is left after both bundles are calibrated alike; None for a measure of order.
    :param left_sd: its standard deviation over queries; nan without.
    """

    clear: bool
    p: float
    level: float
    left: Interval | None
    left_sd: float
    power: Power

    @property
    def holds(self) -> bool:
        """Whether it is a clear gain, and one of the model and not of its calibration."""
        return self.clear and (self.left is None or self.left.low > ROUNDING)

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {
            "holds": self.holds, "clear": self.clear, "p": round_figure(self.p), "level": self.level,
            "left": self.left.to_json() if self.left else None,
            "detectable": round_figure(self.power.detectable), "needed": self.power.needed,
        }  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One measure on one part, old against new.

    :param claim: the paired change, positive where the new bundle is better.
    :param power: to show that the loss is tolerable, or for other measures a gain.
    :param gain: on the control arm, of the measures whose gain decides.
    """

    measure: str
    old: Interval
    new: Interval
    claim: Claim
    power: Power
    gain: GainTest | None = None

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
            "gain": self.gain.to_json() if self.gain else None,
        }


@dataclass(frozen=True)
class Condition:
    """The requirement that the order of a part loses no more than is tolerated, and on the control arm that it gains.

    :param part: ``id`` or ``control``.
    :param bound: value that the lower end of the order's interval must exceed.
    :param changes: the measure of order first.
    :param reason: why it is not met; empty if it is.
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

    @property
    def undecided(self) -> bool:
        """Whether the lower end of the order's interval is nearer to its bound than machines agree."""
        return abs(self.changes[0].claim.interval.low - self.bound) <= AGREEMENT

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {
            "part": self.part, "path": str(self.path), "sha256": self.sha256, "queries": self.queries,
            "pairs": self.pairs, "bound": self.bound, "agreement": AGREEMENT, "undecided": self.undecided,
            "passed": self.passed, "reason": self.reason or None,
            "changes": [change.to_json() for change in self.changes],
        }  # fmt: skip


@dataclass(frozen=True)
class GateReport:
    """The gate's decision and the figures behind it.

    :param conditions: ``id``, then ``control``.
    :param checks: of the bundle's contract and parity, its grades and its training data.
    :param blank: judgments passed over, by id of an item without text.
    :param looks: at a control arm that was judged in shares, JSON-ready, the deciding one last; empty: it was judged at
        once.
    """

    old: Bundle
    new: Bundle
    options: GateOptions
    conditions: tuple[Condition, ...]
    checks: tuple[Finding, ...]
    created: str
    blank: Mapping[str, int] = field(default_factory=dict)
    looks: Sequence[Mapping[str, Any]] = ()

    @property
    def passed(self) -> bool:
        """Whether the new bundle may be released."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate refuses, one clause per reason; empty if it passed."""
        failed = [f"{check.check}: {check.detail}" for check in self.checks if check.passed is False]
        found = (*failed, *(part.reason for part in self.conditions if not part.passed))
        return (*found, describe_last(self.looks)) if found and self.looks else found

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
            "looks": list(self.looks),
            "decided": describe_last(self.looks) or None,
            "checks": [check.to_json() for check in self.checks],
            "without_text": dict(sorted(self.blank.items())),
        }


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.card.name, "version": bundle.card.version, "path": str(bundle.path),
        "identity": bundle.identity,
    }  # fmt: skip
