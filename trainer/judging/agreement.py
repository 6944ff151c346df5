"""How far two judges agree: Cohen's kappa with an interval by query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evaluate.bootstrap import Interval
from trainer.evaluate.grading import quadratic_kappa_of
from trainer.evaluate.resample import Figure, Floats, resample


@dataclass(frozen=True)
class Agreement:
    """Two judges on the pairs that both graded.

    :param quadratic: kappa with quadratic weights, its interval from resampled queries.
    :param nominal: kappa without weights.
    :param same: share of pairs with the same grade.
    :param confusion: ``k`` rows of ``k`` counts, rows the first judge's grade.
    """

    pairs: int
    queries: int
    quadratic: Interval
    nominal: Interval
    same: Interval
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Render for reports.

        :return: JSON-ready values; null where there is no number.
        """
        figures = {name: interval_json(getattr(self, name)) for name in ("quadratic", "nominal", "same")}
        return {"pairs": self.pairs, "queries": self.queries, **figures, "confusion": [list(r) for r in self.confusion]}


def agreement(
    first: Mapping[str, int], second: Mapping[str, int], queries: Mapping[str, str], k: int, *, draws: int, seed: int
) -> Agreement:
    """Compare two judges.

    Kappa: Cohen 1960; with quadratic weights: Cohen 1968. Pairs of a query are not independent, so the percentile
    bootstrap (Efron 1979) draws queries.

    :param first: grades by task.
    :param second: grades by task.
    :param queries: the query of each task.
    :return: the agreement on what both graded; nan where kappa is not defined: nothing in common, or both constant.
    """
    both = [task for task in first if task in second]
    index = {query: n for n, query in enumerate(dict.fromkeys(queries[task] for task in both))}
    table = np.zeros((len(index), k, k))
    for task in both:
        table[index[queries[task]], first[task], second[task]] += 1.0
    flat, there = table.reshape(len(index), k * k), np.ones(len(index), dtype=np.bool_)
    figures = {
        "quadratic": Figure(flat, lambda totals: quadratic_kappa_of(totals, k), there),
        "nominal": Figure(flat, lambda totals: nominal_kappa_of(totals, k), there),
        "same": Figure(flat, lambda totals: _share_same(totals, k), there),
    }
    found = {name: drawn.interval() for name, drawn in resample(figures, draws=draws, seed=seed).items()}
    rows = tuple(tuple(int(n) for n in row) for row in table.sum(0))
    return Agreement(len(both), len(index), found["quadratic"], found["nominal"], found["same"], rows)


def nominal_kappa_of(totals: Floats, k: int) -> Floats:
    """Cohen's kappa (Cohen 1960), of many tables at once.

    :param totals: ``[..., k * k]`` flat tables of first by second grade.
    :return: ``[...]``, nan where chance alone makes both agree always.
    """
    table = totals.reshape(*totals.shape[:-1], k, k)
    n = np.maximum(table.sum((-1, -2)), 1.0)
    seen = np.diagonal(table, axis1=-2, axis2=-1).sum(-1) / n
    chance = (table.sum(-1) * table.sum(-2)).sum(-1) / np.square(n)
    left = 1.0 - chance
    return np.where(left > 1e-12, (seen - chance) / np.where(left > 1e-12, left, 1.0), np.nan)


def interval_json(interval: Interval) -> dict[str, float | int | None]:
    """Render an interval.

    :param interval: with nan where there is no number.
    :return: JSON-ready values, null for nan.
    """
    return {key: None if math.isnan(value) else value for key, value in interval.to_json().items()}


def between(raters: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """List the pairs of judges that can be compared.

    :param raters: grades by task, by judge.
    :return: each two names, once.
    """
    names: Sequence[str] = list(raters)
    return [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]


def _share_same(totals: Floats, k: int) -> Floats:
    table = totals.reshape(*totals.shape[:-1], k, k)
    n = table.sum((-1, -2))
    return np.where(n > 0, np.diagonal(table, axis1=-2, axis2=-1).sum(-1) / np.where(n > 0, n, 1.0), np.nan)
