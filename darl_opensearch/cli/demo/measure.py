"""The demo's measurements: nDCG, judged share, OOD shares, latency."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darl_opensearch.cli.demo.sample import Sample, TestQuery
from darl_opensearch.ood.record import PairRecord
from darl_opensearch.stats.bootstrap import Interval, bootstrap_mean
from darl_opensearch.stats.ranking import dcg
from darl_opensearch.stats.shares import Share, share_of

CUTOFF = 10
LEAST_JUDGED = 0.95


@dataclass
class RouteRun:
    """Results of one search route over all test queries.

    :param ranked: item ids by query id, best first.
    :param is_ood: by query id, whether each of them is out of distribution, where the route tells.
    """

    name: str
    ranked: dict[str, list[str]] = field(default_factory=dict)
    is_ood: dict[str, list[bool]] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    not_reranked: list[str] = field(default_factory=list)

    def add(
        self, query: TestQuery, ids: Sequence[str], took_ms: float, *, reranked: bool = True,
        is_ood: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        """Record one search.

        :param ids: returned items, best first.
        """
        self.ranked[query.query_id], self.is_ood[query.query_id] = list(ids), list(is_ood)
        self.latency_ms.append(took_ms)
        if not reranked:
            self.not_reranked.append(query.query_id)

    def latency(self) -> dict[str, float]:
        """Median and 95th percentile, in milliseconds per search."""
        ordered = sorted(self.latency_ms)
        last = ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]
        return {"median_ms": round(statistics.median(ordered), 1), "p95_ms": round(last, 1)}


def measure_query_ndcg(
    run: RouteRun, sample: Sample, queries: Sequence[TestQuery], gains: Sequence[float]
) -> dict[str, float]:  # fmt: skip
    """Measure nDCG@10 by query id, against the best order of all judged items.

    Queries without a relevant item are left out.
    """
    relevant: dict[str, list[float]] = defaultdict(list)
    for (query_id, _), grade in sample.grades.items():
        relevant[query_id].append(gains[grade])
    ndcg = {}
    for query_id in (query.query_id for query in queries):
        if ideal := dcg(sorted(relevant[query_id], reverse=True), CUTOFF):
            grades = [sample.grades.get((query_id, item_id), 0) for item_id in run.ranked[query_id][:CUTOFF]]
            ndcg[query_id] = dcg([gains[grade] for grade in grades], CUTOFF) / ideal
    return ndcg


def measure_quality(
    run: RouteRun, sample: Sample, queries: Sequence[TestQuery], gains: Sequence[float]
) -> dict[str, Any]:
    """Measure nDCG@10 and judged@10 of some queries; both are None unless the route searched all of them."""
    if not all(query.query_id in run.ranked for query in queries):
        return {"ndcg@10": None, "judged@10": None, "queries": 0}
    ndcg = measure_query_ndcg(run, sample, queries, gains)
    shown = [(query.query_id, item_id) for query in queries for item_id in run.ranked[query.query_id][:CUTOFF]]
    return {
        "ndcg@10": round(statistics.fmean(ndcg.values()), 4) if ndcg else None,
        "judged@10": round(sum(pair in sample.grades for pair in shown) / len(shown), 4) if shown else None,
        "queries": len(ndcg),
    }


def compare_routes(
    run: RouteRun, other: RouteRun, sample: Sample, queries: Sequence[TestQuery], gains: Sequence[float]
) -> Interval:
    """Compare two routes on the same queries: the mean difference in nDCG@10, with its interval."""
    one, two = (measure_query_ndcg(route, sample, queries, gains) for route in (run, other))
    return bootstrap_mean(np.array([one[query_id] - two[query_id] for query_id in one]))


def measure_ood_shares(pairs: Iterable[PairRecord], sample: Sample) -> dict[tuple[bool, bool], Share]:
    """Share of OOD pairs by whether query and item are of a trained kind, with intervals clustered by query.

    :param pairs: logged pairs, with their weights.
    :param sample: for the kinds of its queries and items.
    :return: share by (query seen, item seen).
    """
    seen = {query.query_id: query.seen for query in sample.queries}
    cells: dict[tuple[bool, bool], dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for pair in pairs:
        if pair.query_id in seen and pair.item_id in sample.texts:
            cell = cells[seen[pair.query_id], pair.item_id not in sample.new][pair.query_id]
            cell[0] += pair.weight * pair.is_ood
            cell[1] += pair.weight
    return {
        key: share_of([hits for hits, _ in by_query.values()], [total for _, total in by_query.values()])
        for key, by_query in cells.items()
    }


def find_alarms(shares: Mapping[tuple[bool, bool], Share], alpha: float) -> list[str]:
    """List OOD shares that deviate from the calibration, one clause each.

    :param shares: by (query seen, item seen).
    """
    alarms = []
    old, new = shares.get((True, True)), shares.get((False, False))
    if old is not None and old.low is not None and old.low > alpha:
        alarms.append(f"known queries with known kinds: share OOD {old.value:.3f} is above alpha {alpha}")
    if new is not None and new.low is not None and new.low <= 3 * alpha:
        alarms.append(f"new queries with new kinds: share OOD {new.value:.3f} is not clearly above 3 x alpha {alpha}")
    return alarms


def find_failures(
    runs: Sequence[RouteRun], first: str, quality: Mapping[str, Mapping[str, Any]], logged: int, expected: int
) -> list[str]:
    """List the reasons why the demo fails, one clause each.

    :param runs: the routes that rerank.
    :param quality: by route, each next to the first stage's on the same queries.
    :param expected: pairs scored by the route that logs.
    """
    problems = [
        f"{run.name}: {len(run.not_reranked)} searches came back not reranked" for run in runs if run.not_reranked
    ]
    for name, figures in quality.items():
        if (figures["judged@10"] or 0.0) < LEAST_JUDGED:
            problems.append(f"{name}: judged@10 is {figures['judged@10']}, below {LEAST_JUDGED}")
        if name != first and (figures["ndcg@10"] or 0.0) <= (quality[first]["ndcg@10"] or 0.0):
            problems.append(f"{name}: nDCG@10 is not above the first stage's")
    if logged != expected:
        problems.append(f"the OOD log holds {logged} of {expected} scored pairs")
    return problems
