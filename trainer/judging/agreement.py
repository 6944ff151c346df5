"""Agreement of two judges: Cohen's kappa with an interval by query."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from darl_opensearch.stats.bootstrap import Figure, Interval, resample
from darl_opensearch.stats.grades import confusion_by_query, kappa, quadratic_kappa, share_equal


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges on the pairs that both graded.

    :param quadratic: kappa with quadratic weights; its interval resamples queries.
    :param nominal: unweighted kappa.
    :param confusion: ``k`` rows of ``k`` counts, rows by the first judge's grade.
    """

    pairs: int
    queries: int
    quadratic: Interval
    nominal: Interval
    same: Interval
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Render for reports, with null for nan."""
        figures = {name: getattr(self, name).to_json() for name in ("quadratic", "nominal", "same")}
        return {"pairs": self.pairs, "queries": self.queries, **figures, "confusion": [list(r) for r in self.confusion]}


def measure_agreement(
    first: Mapping[str, int], second: Mapping[str, int], queries: Mapping[str, str], k: int, *, draws: int, seed: int
) -> Agreement:
    """Measure the agreement of two judges on the pairs that both graded.

    Kappa: Cohen 1960; with quadratic weights: Cohen 1968. Pairs of a query are not independent, so the percentile
    bootstrap (Efron 1979) resamples queries.

    :param first: grades by task.
    :param second: grades by task.
    :return: nan where kappa is undefined: nothing in common, or both constant.
    """
    common = [task for task in first if task in second]
    places = {query: place for place, query in enumerate(dict.fromkeys(queries[task] for task in common))}
    index = np.array([places[queries[task]] for task in common], dtype=np.int64)
    grades = [np.array([judge[task] for task in common], dtype=np.int64) for judge in (first, second)]
    tables = confusion_by_query(grades[0], grades[1], k, index, len(places))
    measures = {"quadratic": quadratic_kappa, "nominal": kappa, "same": share_equal}
    figures = {name: Figure(tables, measure, np.ones(len(places), dtype=bool)) for name, measure in measures.items()}
    intervals = {name: resampled.interval() for name, resampled in resample(figures, draws=draws, seed=seed).items()}
    rows = tuple(tuple(int(n) for n in row) for row in tables.sum(0))
    return Agreement(len(common), len(places), **intervals, confusion=rows)


def compare_raters(
    raters: Mapping[str, Mapping[str, int]], queries: Mapping[str, str], k: int, *, draws: int, seed: int
) -> Iterator[tuple[str, str, Agreement]]:
    """Measure the agreement of every two judges.

    :param raters: grades by task, by judge.
    """
    for first, second in itertools.combinations(raters, 2):
        agreement = measure_agreement(raters[first], raters[second], queries, k, draws=draws, seed=seed)
        yield first, second, agreement
