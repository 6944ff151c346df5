"""How often the gate says yes, and how many control queries are judged until it does, by the number of its looks.

``python -m benchmarks.cycle.looks`` draws control arms from the test queries of real judged sets, with the figures by
query that two versions have there (``python -m benchmarks.cycle.halves``), and lets the gate's own functions decide
look by look. A cycle, by set:

- *half of the labels*: the untrained head against one fitted on half of the training queries;
- *the other half*: that one against one fitted on all of them;
- *none*: the last two, which of them is the new one drawn for each query: real differences without a gain;
- *calibration alone*: one version, whose cumulative log-odds were halved before: the order is the same;
- *loss at the tolerance*: *half of the labels*, its changes of order moved so that their mean is minus the tolerance.

An arm has as many queries as a dry run asks for by the spread of the differences: for a gain of .01 in one measure and
to exclude a loss. It is drawn with replacement, since that can be more than a set has test queries; the true gain is
that of all of them, with the grades of each split calibrated alike once, and not in each arm. Seed 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.cycle.halves import ALL, HALF, UNTRAINED, WORK
from benchmarks.measuring import write_result
from darl_opensearch.stats.grades import ranked_probability_score
from darl_opensearch.stats.paired import power
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.cycle.planning import GAIN, count_control_queries
from trainer.evaluate import gate_decision
from trainer.evaluate.gate_decision import decide_look, decide_part
from trainer.evaluate.gate_report import AGREEMENT, CONTROL, GateReport
from trainer.evaluate.grading import Grading
from trainer.evaluate.looks import CONTINUED, YES, plan_looks
from trainer.evaluate.measured import Measured
from trainer.evaluate.parts import JudgedPart
from trainer.evaluate.recalibrated import recalibrated_rps
from trainer.evaluate.settings import GateOptions

RESULT = Path(__file__).parent / "results" / "looks.json"
LOOKS, DRAWS, SEED, CUTOFF = (1, 2, 4), 1250, 0, 10
OPTIONS = GateOptions(draws=DRAWS)
ORDER, GRADES, LEFT = OPTIONS.measure, "rps", "left"
FIRST, SECOND, NONE, CALIBRATION, LOSS = (
    "half of the labels", "the other half", "none", "calibration alone", "loss at the tolerance",
)  # fmt: skip
TRIALS = {FIRST: 60, SECOND: 80, NONE: 250, CALIBRATION: 100, LOSS: 80}
Floats = NDArray[np.float64]
Figures = Mapping[str, Floats]  # by measure ``[q]``; nDCG, RPS, and RPS once calibrated alike


@dataclass(frozen=True)
class Cycle:
    """Figures by query of the old and the new version."""

    old: Figures
    new: Figures

    def change(self, name: str) -> Floats:
        """Change of a measure, positive where the new version is better."""
        return (self.new[name] - self.old[name]) * (1.0 if name == ORDER else -1.0)


def measure_version(probs: Floats, latent: Floats, grades: NDArray[np.int64], query: NDArray[np.int64]) -> Figures:
    """Measure a version's predictions, query by query."""
    n = int(query.max()) + 1
    ndcg = ndcg_per_query(latent, grades.astype(np.float64), query, cutoff=CUTOFF)
    rps = np.bincount(query, ranked_probability_score(probs, grades)) / np.bincount(query)
    left = recalibrated_rps(Grading(probs, grades, query, n), range(probs.shape[1]))
    return {ORDER: np.array([ndcg.get(q, math.nan) for q in range(n)]), GRADES: rps, LEFT: left}


def halve_log_odds(probs: Floats) -> Floats:
    """Halve the log-odds of every "at most this grade": less certain grades in the same order."""
    at_most = np.clip(probs.cumsum(1)[:, :-1], 1e-9, 1 - 1e-9)
    at_most = 1 / (1 + np.sqrt(1 / at_most - 1))
    edges = np.concatenate([np.zeros((len(probs), 1)), at_most, np.ones((len(probs), 1))], 1)
    return np.diff(edges, axis=1)


def read_cycles(paths: list[Path]) -> dict[str, Cycle]:
    """Read the splits of one set as cycles, by name."""
    found: dict[str, list[Figures]] = {}
    for path in paths:
        with np.load(path) as kept:
            grades, query = kept["grades"], kept["query"]
            for version in (UNTRAINED, HALF, ALL):
                probs, latent = kept[f"{version}_probs"], kept[f"{version}_latent"]
                found.setdefault(version, []).append(measure_version(probs, latent, grades, query))
            flat = halve_log_odds(kept[f"{ALL}_probs"])
            found.setdefault(CALIBRATION, []).append(measure_version(flat, kept[f"{ALL}_latent"], grades, query))
    figures = {
        name: {key: np.concatenate([each[key] for each in parts]) for key in (ORDER, GRADES, LEFT)}
        for name, parts in found.items()
    }
    first, second = Cycle(figures[UNTRAINED], figures[HALF]), Cycle(figures[HALF], figures[ALL])
    moved = figures[HALF][ORDER] - np.nanmean(first.change(ORDER)) - OPTIONS.tolerance
    return {
        FIRST: first, SECOND: second, NONE: second, CALIBRATION: Cycle(figures[CALIBRATION], figures[ALL]),
        LOSS: Cycle(first.old, {**first.new, ORDER: moved}),
    }  # fmt: skip


def plan_queries(cycle: Cycle, looks: int) -> int:
    """Count the control queries that a dry run asks for: for a gain in one measure, and to exclude a loss."""
    sd = {name: power(cycle.change(name), 0.0).sd for name in (ORDER, GRADES)}
    gain = min(
        count_control_queries(each, GAIN, tests=2, least=OPTIONS.min_queries, looks=looks) for each in sd.values()
    )
    margin = OPTIONS.tolerance - AGREEMENT
    return max(gain, count_control_queries(sd[ORDER], margin, tests=1, least=OPTIONS.min_queries, looks=looks))


def run_gate(cycle: Cycle, queries: NDArray[np.int64], swapped: NDArray[np.bool_], looks: int) -> tuple[bool, int]:
    """Let the gate look at an arm until it decides.

    :param queries: ``[n]`` of the cycle, in the order in which they are judged.
    :param swapped: ``[n]`` whether old and new change places.
    :return: whether it says yes, and the queries judged.
    """
    for look in plan_looks(len(queries), looks):
        seen, places = queries[: look.seen], swapped[: look.seen]
        old, new = (
            _measured({name: np.where(places, b[name][seen], a[name][seen]) for name in a})
            for a, b in ((cycle.old, cycle.new), (cycle.new, cycle.old))
        )
        with patch.object(gate_decision, "recalibrated_rps", _read_left):  # known by query
            condition = decide_part(_PART, old, new, (0.0, 1.0), OPTIONS, look)
        report = GateReport(None, None, OPTIONS, (condition,), (), "")  # type: ignore[arg-type]  # no bundles
        if (decision := decide_look(report, look)["decision"]) != CONTINUED:
            return decision == YES, look.seen
    raise AssertionError("the last look decides")


@dataclass(frozen=True)
class _Calibrated(Grading):
    """A grading whose RPS after another calibration is known."""

    left: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))


def _read_left(grading: _Calibrated, gains: object) -> Floats:
    return grading.left


_PART = JudgedPart(CONTROL, Path(), "", (), np.zeros(0, dtype=np.int64), (), np.zeros(0, dtype=np.int64), ())


def _measured(figures: Figures) -> Measured:
    empty = np.zeros(0, dtype=np.int64)
    grading = _Calibrated(np.zeros((0, 2)), empty, empty, 0, figures[LEFT])
    return Measured({}, dict(figures), grading, 0, len(figures[GRADES]))


def simulate(cycle: Cycle, name: str, looks: int, *, trials: int) -> dict[str, Any]:
    """Simulate a cycle's gate.

    :return: JSON-ready: share of yes and mean number of judged queries, with standard errors.
    """
    n, size = plan_queries(cycle, looks), len(cycle.old[ORDER])
    answers, judged = np.zeros(trials), np.zeros(trials)
    for trial in range(trials):
        rng = np.random.default_rng([SEED, trial])
        queries = rng.integers(0, size, n)
        swapped = rng.random(n) < 0.5 if name == NONE else np.zeros(n, dtype=np.bool_)
        answers[trial], judged[trial] = run_gate(cycle, queries, swapped, looks)
    share = float(answers.mean())
    return {
        "looks": looks, "trials": trials, "planned": n, "yes": round(share, 4),
        "yes_error": round(math.sqrt(share * (1 - share) / trials), 4), "judged": round(float(judged.mean()), 1),
        "judged_error": round(float(judged.std(ddof=1)) / math.sqrt(trials), 1),
    }  # fmt: skip


def describe(cycle: Cycle, name: str) -> dict[str, Any]:
    """Describe the true changes: mean and standard deviation over queries; without a gain the mean is 0."""
    changes = {key: cycle.change(key) for key in (ORDER, GRADES, LEFT)}
    mean = {key: 0.0 if name == NONE else float(np.nanmean(each)) for key, each in changes.items()}
    return {
        key: {"mean": round(mean[key], 5), "sd": round(float(np.nanstd(each, ddof=1)), 5)}
        for key, each in changes.items()
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycle.looks", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="where the predictions are kept")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON to write")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials (default: 1)")
    args = parser.parse_args(argv)
    sets: dict[str, list[Path]] = {}
    for path in sorted(args.work.glob("*.npz")):
        sets.setdefault(path.stem.rpartition("-")[0], []).append(path)
    if not sets:
        parser.error(f"no predictions in {args.work}: run python -m benchmarks.cycle.halves")
    found: dict[str, Any] = {}
    for name, paths in sets.items():
        cycles = read_cycles(paths)
        found[name] = {"splits": len(paths), "queries": len(cycles[FIRST].old[ORDER]), "cycles": {}}
        for kind, cycle in cycles.items():
            rows = []
            for looks in LOOKS:
                trials = max(2, int(args.share * TRIALS[kind]))
                rows.append(simulate(cycle, kind, looks, trials=trials))
                print(name, kind, json.dumps(rows[-1]), flush=True)
            found[name]["cycles"][kind] = {"changes": describe(cycle, kind), "rows": rows}
    promised = {"power": 0.8, "false": 0.025, "tolerance": OPTIONS.tolerance, "draws": DRAWS, "seed": SEED}
    write_result(args.out, {"promised": promised, "sets": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
