"""Areas under label curves, and their differences with queries and seeds resampled together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cycle.curves import Table
from darl_opensearch.stats.bootstrap import Resampled, p_of_zero, percentiles
from darl_opensearch.stats.holm import holm

DRAWS = 2000
_BLOCK = 250

Floats = NDArray[np.float64]


def state_claim(difference: Resampled) -> dict[str, float]:
    """Say how sure a difference is.

    :param difference: of two figures of the same resamples.
    :return: ``mean``, ``low`` and ``high`` (95 %, percentiles), and two-sided ``p`` of no difference.
    """
    low, high = percentiles(difference.draws)
    return {"mean": round(difference.point, 5), "low": round(low, 5), "high": round(high, 5),
            "p": round(p_of_zero(difference.draws), 5)}  # fmt: skip


def weights_of_area(grid: Sequence[int]) -> Floats:
    """Weigh the points of a curve so that their sum is the area under it over its width (trapezoids).

    :param grid: ascending numbers of labels.
    :return: a weight for each; they sum to 1.
    """
    x = np.asarray(grid, dtype=np.float64)
    steps = np.diff(x)
    weights = np.zeros(len(x))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    return np.asarray(weights / steps.sum())


def resampled(table: Table, points: Floats, *, draws: int = DRAWS, seed: int = 0) -> Resampled:
    """Mean over seeds of a weighted sum over a curve's points, with queries and seeds resampled.

    Both factors are drawn anew, independently (the pigeonhole bootstrap, Owen 2007, doi:10.1214/07-AOAS122), which
    errs towards wide intervals. The same seed gives the same resamples to every table of as many seeds and queries.

    :param table: sums of one measure.
    :param points: ``[b]`` weight of each point.
    :param draws: resamples.
    :param seed: of the resampling.
    :return: the figure.
    """
    used = np.flatnonzero(points)
    sums = table.sums[:, used].astype(np.float64)
    n_seeds, _, n_queries, *shape = sums.shape
    flat = np.moveaxis(sums, 2, 0).reshape(n_queries, -1)
    rng = np.random.default_rng(seed)

    def figure(by_query: Floats, by_seed: Floats) -> Floats:
        totals = (by_query @ flat).reshape(len(by_query), n_seeds, len(used), *shape)
        value = table.value(totals) @ points[used]
        there = ~np.isnan(value)
        weight = by_seed * there
        return np.asarray(
            (np.where(there, value, 0.0) * weight).sum(1) / np.where(weight.sum(1), weight.sum(1), np.nan)
        )

    point = float(figure(np.ones((1, n_queries)), np.ones((1, n_seeds)))[0])
    found = []
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        by_query = rng.multinomial(n_queries, np.full(n_queries, 1 / n_queries), size=size).astype(np.float64)
        by_seed = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=size).astype(np.float64)
        found.append(figure(by_query, by_seed))
    return Resampled(point, np.concatenate(found), n_queries)


def curve(table: Table) -> list[float]:
    """Mean over seeds at each point.

    :param table: sums of one measure.
    :return: a value for each point.
    """
    return [round(float(v), 5) for v in np.nanmean(table.value(table.sums.astype(np.float64).sum(2)), axis=0)]


def labels_needed(grid: Sequence[float], values: Sequence[float], wanted: float) -> float | None:
    """Find where a curve first reaches a quality, straight lines between its points.

    :param grid: ascending numbers of labels.
    :param values: of the curve.
    :param wanted: the quality.
    :return: labels; None where it is not reached.
    """
    if values[0] >= wanted:
        return float(grid[0])
    for (x0, y0), (x1, y1) in zip(
        zip(grid, values, strict=True), list(zip(grid, values, strict=True))[1:], strict=False
    ):
        if y1 >= wanted:
            return float(x0 + (x1 - x0) * (wanted - y0) / (y1 - y0))
    return None


def adjusted(claims: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Adjust a family of claims for being several.

    :param claims: by name.
    :return: the same with ``p_holm``.
    """
    held = holm({name: claim["p"] for name, claim in claims.items()})
    return {name: {**claim, "p_holm": round(held[name], 5)} for name, claim in claims.items()}
