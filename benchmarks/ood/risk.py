"""Are grades of flagged pairs wrong more often, and what orders errors best: the OOD distance, or the grades alone?

``python -m benchmarks.ood.risk``, with ``DARL_DATA`` naming the folder of real judgments. Shifts, splits and frozen
features are those of ``benchmarks.ood.detectors``; the head is the default one, fitted on the fit's pairs and
calibrated on the held-out ones, which calibrate the detector, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measuring import data_folder
from benchmarks.ood import report
from benchmarks.ood.detectors import ALPHA, Bench, Rows, System, flag, shifts, split
from benchmarks.ood.encoding import ITEMS, SETTINGS, SPEECH, TYPOS, encode
from benchmarks.ood.measures import DRAWS, Floats, claims, interval, resamples
from benchmarks.quality import sets
from benchmarks.quality.feedbackqa import circumstances
from benchmarks.quality.losses import method
from benchmarks.quality.methods import fitted
from darl_opensearch.errors import DarlError
from darl_opensearch.scores import grade_of
from darl_opensearch.stats.bootstrap import ratio
from darl_opensearch.stats.flagged import ratio_of_shares, sum_by_flag
from darl_opensearch.stats.grades import ranked_probability_score
from trainer.models.heads import Head
from trainer.stages.calibrated import calibrate_afresh
from trainer.training_data.pairs import Pairs

DETECTORS = {"knn": System("knn"), "catalogue": System("catalogue"), "mahalanobis": System("mahalanobis")}
DEFAULT = "knn"
HEAD = method("cumulative", "pairwise")
ENTROPY, SPREAD, BOTH = "entropy", "expected RPS", "expected RPS and knn"
KNOWN = "known kinds"


class Graded(Bench):
    """One repetition of one fit, with the default head."""

    def _head(self) -> Head:
        rows = self.parts.fit
        dev = self.data.index[rows, 0] % 5 == 0
        sides = [(self.pairs(part), self.head_input[part]) for part in (rows[~dev], rows[dev], self.parts.held)]
        head = fitted(HEAD, *sides[:2])
        calibrate_afresh(head, *sides[2])
        return head

    def pairs(self, rows: Rows) -> Pairs:
        """Some pairs with their grades, without their texts."""
        index, grades = (torch.from_numpy(values[rows]) for values in (self.data.index, self.data.grades))
        return Pairs((), (), index, grades)


def expected_rps(probs: Floats) -> Floats:
    """Compute the ranked probability score that grade probabilities expect of themselves, ``[n]``."""
    below = probs.cumsum(1)[:, :-1]
    spread: Floats = (below * (1.0 - below)).mean(1)
    return spread


def ranks(values: Floats, held: Rows) -> Floats:
    """Rank values among those of the held-out pairs, ``[n]`` in [0, 1]."""
    return np.searchsorted(np.sort(values[held]), values, "right") / len(held)


def orders(bench: Graded, probs: Floats) -> dict[str, Floats]:
    """Compute every order of all pairs, by what puts the pairs that are probably wrong last."""
    held = bench.parts.held
    found = {name: bench.distances(system) for name, system in DETECTORS.items()}
    found[ENTROPY] = -(probs * np.log(np.clip(probs, 1e-12, 1.0))).sum(1)
    found[SPREAD] = expected_rps(probs)
    found[BOTH] = ranks(found[SPREAD], held) + ranks(found[DEFAULT], held)
    return found


def area(order: Floats, errors: Floats, weight: Floats) -> Floats:
    """Compute the area under the risk–coverage curve: the mean error of those kept, over all shares that are kept.

    :param order: ``[n]``, the first are kept longest.
    :param errors: ``[n]``.
    :param weight: ``[b, n]`` of each pair in each resample.
    :return: ``[b]``.
    """
    rows = np.argsort(order, kind="stable")
    weight = weight[:, rows]
    kept = weight.cumsum(1)
    risk = (weight * errors[rows]).cumsum(1) / np.where(kept > 0, kept, 1.0)
    found: Floats = (risk * weight).sum(1) / kept[:, -1]
    return found


def mix(known: Rows, strange: Rows, of: Rows, weight: Floats) -> tuple[Rows, Floats]:
    """Mix known and strange pairs half and half.

    :param of: ``[all pairs]`` query of each pair.
    :param weight: ``[b, queries]``.
    :return: rows ``[n]``, and ``[b, n]`` weights.
    """
    sides = [weight[:, of[rows]] for rows in (known, strange)]
    return np.concatenate([known, strange]), np.concatenate(
        [side / np.maximum(side.sum(1, keepdims=True), 1e-12) for side in sides], axis=1
    )


def compare_flagged(errors: Floats, flagged: NDArray[np.bool_], rows: Rows, of: Rows, weight: Floats) -> Floats:
    """Sum errors and pairs of the flagged and of the other pairs.

    :return: ``[b, 4]``: errors and pairs that are flagged, errors and pairs that are not.
    """
    sums: Floats = weight @ sum_by_flag(errors[rows], flagged[rows], of[rows], weight.shape[1])
    return sums


def run(folder: Path, cache: Path, *, seeds: int, draws: int) -> dict[str, Any]:
    """Fit, measure, compare.

    :param folder: what ``DARL_DATA`` names.
    :param cache: folder for encodings.
    :param seeds: repetitions.
    :param draws: resamples of the queries.
    :return: JSON-ready result.
    """
    begin = time.perf_counter()
    data = encode(folder, cache, seed=0)
    of = data.index[:, 0]
    weight = resamples(len(data.query), draws, seed=0)
    flags: dict[str, Any] = {}
    areas: dict[str, Any] = {}
    family: dict[str, Floats] = {}
    for fit_name, shift in shifts(data).items():
        sums: dict[str, list[dict[str, Floats]]] = {}
        found: dict[str, list[dict[str, Floats]]] = {}
        for seed in range(seeds):
            parts = split(data, shift, seed=seed)
            bench = Graded(data, shift, parts)
            with torch.no_grad():
                probs = bench.head.grade_probs(bench.raw).double().numpy()
            rps = ranked_probability_score(probs, data.grades)
            wrong = (grade_of(probs) != data.grades).astype(np.float64)
            ordered = orders(bench, probs)
            flagged = flag(ordered[DEFAULT], parts)
            known = np.concatenate([parts.test, parts.seen])
            strange = {name: rows for name, rows in parts.outside.items() if name not in (TYPOS, SPEECH)}
            for name, rows in {f"{KNOWN}: {fit_name}": known, **strange}.items():
                sums.setdefault(name, []).append({
                    what: compare_flagged(errors, flagged, rows, of, weight)
                    for what, errors in (("wrong", wrong), ("rps", rps))
                })  # fmt: skip
            for name, rows in strange.items():
                mixed, shares = mix(known, rows, of, weight)
                one = {order: area(values[mixed], rps[mixed], shares) for order, values in ordered.items()}
                found.setdefault(name, []).append(one | {"any": (shares * rps[mixed]).sum(1) / shares.sum(1)})
        for name, repetitions in sums.items():
            flags[name] = summarise(repetitions)
        for name, each in found.items():
            mean = {order: np.nanmean([one[order] for one in each], axis=0) for order in each[0]}
            areas[name] = {order: interval(values) for order, values in mean.items()}
            family |= {f"{name}: {order} − {SPREAD}": mean[order] - mean[SPREAD] for order in (DEFAULT, BOTH)}
        print(fit_name, file=sys.stderr)
    return {
        "flags": flags, "areas": areas, "claims": claims(family), "circumstances": circumstances(),
        "seconds": round(time.perf_counter() - begin, 1),
        "config": {
            "seeds": seeds, "draws": draws, "alpha": ALPHA, "items_a_query": ITEMS, "base": SETTINGS.base,
            "query_cap": SETTINGS.query_cap, "item_cap": SETTINGS.item_cap, "head": HEAD.name,
            "data": sets.digests(folder, tuple(ITEMS)),
        },
    }  # fmt: skip


def summarise(repetitions: Sequence[Mapping[str, Floats]]) -> dict[str, Any]:
    """Pool the repetitions' sums, and compute shares, RPS and their ratios with intervals."""
    total = {what: np.sum([one[what] for one in repetitions], axis=0) for what in ("wrong", "rps")}
    pairs = total["wrong"]
    found = {"share_flagged": interval(pairs[:, 1] / (pairs[:, 1] + pairs[:, 3])),
             "pairs": round(float(pairs[0, 1] + pairs[0, 3]) / len(repetitions))}  # fmt: skip
    for what, sums in total.items():
        sides = {"flagged": ratio(sums[:, :2]), "other": ratio(sums[:, 2:]), "ratio": ratio_of_shares(sums)}
        for side, values in sides.items():
            found[f"{what}_{side}"] = None if np.isnan(values[0]) else interval(values)  # None: no such pair
    return found


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ood.risk", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"resamples of the queries (default: {DRAWS})")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "darl-ood", help="folder for encodings"
    )
    parser.add_argument("--out", type=Path, default=report.RISK, help="where the result goes")
    args = parser.parse_args(argv)
    try:
        result = run(data_folder(), args.cache, seeds=args.seeds, draws=args.draws)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(report.render_risk(result))
    report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
