"""Are the default loss weights and features good ones? Decided on training halves alone.

Run as ``python -m benchmarks.quality.study``. Each half-split's training half is cross-validated: no test half
and nothing of the OOD domain takes part in a choice. But the halves of several splits together cover every ID
query, so a choice made from their mean is not blind to the ID test halves; hence the last table, where each
split makes its own choice on its own training half and only then meets its test half.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import data_folder
from benchmarks.quality import report, sets
from benchmarks.quality.data import (
    DEV_SHARE,
    ID_DOMAINS,
    OOD_DOMAIN,
    HalfSplit,
    Judged,
    Rows,
    half_split,
    read_judged,
)
from benchmarks.quality.feedbackqa import SETTINGS, circumstances
from benchmarks.quality.measures import PER_QUERY, Claim, claims_json, compare_paired, figures, over_splits
from benchmarks.quality.methods import OURS, PRIOR, YES_NO, Method, apply, fit
from darl_opensearch.errors import DarlError
from trainer.config import Loss
from trainer.models.split import INPUT_WIDTH

RANK_WEIGHTS, PENALTIES, FOLDS = (0.0, 1.0, 3.0, 10.0), (0.001, 0.01, 0.1, 0.3), 5
Values = dict[str, list[dict[int, float]]]  # of each figure, by split and query


def _grid(base: Loss, rank_weights: Sequence[float], **kind: Any) -> dict[str, Method]:
    losses = [dataclasses.replace(base, rank_weight=w, l2=p) for w in rank_weights for p in PENALTIES]
    prefix = "yes/no, " if kind else ""
    return {(name := f"{prefix}{_name(loss)}"): Method(name, loss, **kind) for loss in losses}


def _name(loss: Loss) -> str:
    return f"rank_weight {loss.rank_weight:g}, l2 {loss.l2:g}"


DEFAULT = _name(Loss())
LOSSES = _grid(Loss(), RANK_WEIGHTS)
YES_NO_LOSSES = _grid(YES_NO, (0.0, 3.0), yes_from=2)
KERNELS = tuple(range(2, INPUT_WIDTH))
FEATURES = {
    name: Method(name, OURS.loss, columns=columns)
    for name, columns in {
        "cosine": (0,),
        "weighted maximum": (1,),
        "weighted kernels": KERNELS,
        "cosine + weighted maximum": (0, 1),
        "cosine + weighted kernels": (0, *KERNELS),
    }.items()
}
# What may choose its settings anew in each training half, before it meets the test half.
TUNED = {
    "graded + rank, both tuned": tuple(LOSSES),
    "graded, l2 tuned": tuple(name for name in LOSSES if name.startswith("rank_weight 0,")),
    "yes/no, l2 tuned": tuple(name for name in YES_NO_LOSSES if "rank_weight 0," in name),
    "yes/no + rank, l2 tuned": tuple(name for name in YES_NO_LOSSES if "rank_weight 3," in name),
}


def cross_validate(method: Method, judged: Judged, queries: Rows, *, seed: int) -> dict[str, dict[int, float]]:
    """Measure a method inside a training half.

    :param method: the method.
    :param judged: all judged pairs.
    :param queries: the training half, dev included.
    :param seed: of folds and dev parts, the same for every method.
    :return: figures by query, each query measured by a head that has not seen it.
    """
    values: dict[str, dict[int, float]] = {key: {} for key in PER_QUERY}
    folds = np.array_split(np.random.default_rng(seed).permutation(queries), FOLDS)
    for number, fold in enumerate(folds):
        rest = np.concatenate([other for i, other in enumerate(folds) if i != number])
        n_dev = round(len(rest) * DEV_SHARE)
        head = fit(method, judged, np.sort(rest[n_dev:]), np.sort(rest[:n_dev]))
        measured = figures(*apply(method, head, judged, np.sort(fold)))
        for key in PER_QUERY:
            values[key].update(measured.by_query[key])
    return values


def compare(values: Mapping[str, Values], default: Values, n_queries: int, *, seed: int) -> dict[str, Any]:
    """Rows of one table.

    :param values: by configuration.
    :param default: those of the default.
    :param n_queries: queries in all.
    :param seed: of the resampling.
    :return: JSON-ready values.
    """
    base = {key: over_splits(default[key], n_queries) for key in PER_QUERY}
    rows: dict[str, Any] = {}
    for name, found in values.items():
        mean = {key: over_splits(found[key], n_queries) for key in PER_QUERY}
        rows[name] = {key: round(float(np.nanmean(mean[key])), 5) for key in PER_QUERY}
        rows[name]["difference"] = {
            key: compare_paired(mean[key], base[key], seed=seed).interval.to_json() for key in PER_QUERY
        }
    return rows


def nested(
    judged: Judged, parts: list[HalfSplit], methods: Mapping[str, Method], values: Mapping[str, Values], *, seed: int
) -> dict[str, Any]:
    """Compare the default with what chooses its settings anew in every training half, on the test queries.

    :param judged: all judged pairs.
    :param parts: the half-splits.
    :param methods: by configuration.
    :param values: their cross-validated figures.
    :param seed: of the resampling.
    :return: JSON-ready claims "default minus tuned", and the choices.
    """
    n, outside = len(judged.domain), judged.queries(OOD_DOMAIN)

    def tested(name: str, part: HalfSplit) -> dict[str, dict[str, dict[int, float]]]:
        head = fit(methods[name], judged, part.train, part.dev)
        sets = {"ID": part.test, "OOD": outside}
        return {s: figures(*apply(methods[name], head, judged, q)).by_query for s, q in sets.items()}

    def differences(key: str, where: str, ours: list[Any], theirs: list[Any]) -> Claim:
        a, b = (over_splits([run[where][key] for run in runs], n) for runs in (ours, theirs))
        return compare_paired(a, b, seed=seed)

    default = [tested(DEFAULT, part) for part in parts]
    chosen: dict[str, dict[str, int]] = {}
    claims: dict[str, dict[str, Claim]] = {key: {} for key in PER_QUERY}
    for family, names in TUNED.items():
        choices = [
            max(names, key=lambda name: float(np.mean(list(values[name]["ndcg@3"][number].values()))))
            for number in range(len(parts))
        ]
        chosen[family] = dict(Counter(choices).most_common())
        runs = [tested(name, part) for name, part in zip(choices, parts, strict=True)]
        for key in PER_QUERY:
            for where in ("ID", "OOD"):
                claims[key][f"{where}: default - {family}"] = differences(key, where, default, runs)
    return {"claims": {key: claims_json(family) for key, family in claims.items()}, "chosen": chosen}


def run(folder: Path, *, splits: int, seed: int) -> dict[str, Any]:
    """Run the study.

    :param folder: what ``DARL_DATA`` names.
    :param splits: half-splits.
    :param seed: of everything random.
    :return: JSON-ready result.
    """
    torch.manual_seed(seed)
    begin = time.perf_counter()
    judged = read_judged(folder, SETTINGS, seed=seed)
    torch.set_num_threads(1)  # a head of twelve features: more threads only wait for each other
    parts = [half_split(judged.queries(*ID_DOMAINS), seed=seed, number=number) for number in range(splits)]
    methods = {**LOSSES, **FEATURES, **YES_NO_LOSSES}
    values: dict[str, Values] = {name: {key: [] for key in PER_QUERY} for name in methods}
    for number, part in enumerate(parts):
        half = np.sort(np.concatenate([part.train, part.dev]))
        for name, method in methods.items():
            for key, by_query in cross_validate(method, judged, half, seed=number).items():
                values[name][key].append(by_query)
        print(f"training half {number + 1} of {splits}", file=sys.stderr)
    tables = {
        "Loss, cross-validated in training halves": LOSSES,
        "Features, default loss, cross-validated in training halves": FEATURES,
        "Yes/no (from grade 2), cross-validated in training halves": YES_NO_LOSSES,
    }
    return {
        "config": {
            "splits": splits, "seed": seed, "folds": FOLDS, "dev_share": DEV_SHARE, "calibration_prior": PRIOR,
            "base": SETTINGS.base, "query_cap": SETTINGS.query_cap, "item_cap": SETTINGS.item_cap,
            "data": sets.digests(folder, ("feedbackqa",)),
        },
        "default": DEFAULT,
        "tables": {
            title: compare({name: values[name] for name in rows}, values[DEFAULT], len(judged.domain), seed=seed)
            for title, rows in tables.items()
        },
        "nested": nested(judged, parts, methods, values, seed=seed),
        "circumstances": circumstances(),
        "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.study", description=__doc__)
    parser.add_argument("--splits", type=int, default=20, help="half-splits (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, default=report.STUDY, help="JSON to write")
    args = parser.parse_args(argv)
    if args.splits < 1:
        parser.error("--splits must be at least 1")
    try:
        result = run(data_folder(), splits=args.splits, seed=args.seed)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(report.render_study(result))
    if args.out.resolve() == report.STUDY.resolve():
        report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
