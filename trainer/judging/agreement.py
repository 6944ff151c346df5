"""Agreement of two judges: Cohen's kappa with an interval by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    both = [task for task in first if task in second]
    places = {query: place for place, query in enumerate(dict.fromkeys(queries[task] for task in both))}
    index = np.array([places[queries[task]] for task in both], dtype=np.int64)
    grades = [np.array([judge[task] for task in both], dtype=np.int64) for judge in (first, second)]
    tables = confusion_by_query(grades[0], grades[1], k, index, len(places))
    measures = {"quadratic": quadratic_kappa, "nominal": kappa, "same": share_equal}
    figures = {name: Figure(tables, measure, np.ones(len(places), dtype=bool)) for name, measure in measures.items()}
    intervals = {name: drawn.interval() for name, drawn in resample(figures, draws=draws, seed=seed).items()}
    rows = tuple(tuple(int(n) for n in row) for row in tables.sum(0))
    return Agreement(len(both), len(places), **intervals, confusion=rows)


def list_pairs(raters: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """List the pairs of judges that share a graded task.

    :param raters: grades by task, by judge.
    """
    names: Sequence[str] = list(raters)
    return [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]
