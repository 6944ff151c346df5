"""How well a distance tells strange pairs from known ones, with intervals that resample queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.auroc import auroc
from darl_opensearch.stats.bootstrap import draw_counts, p_of_zero, percentiles
from darl_opensearch.stats.holm import holm

DRAWS = 1000
FIGURES = ("auroc", "aupr", "fpr95")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Distances of known and strange pairs in one repetition.

    :param inside: ``[n]`` of known pairs.
    :param inside_query: ``[n]`` their queries, by numbers that repetitions share.
    :param outside: ``[m]`` of strange pairs.
    :param outside_query: ``[m]`` their queries.
    """

    inside: Floats
    inside_query: Ints
    outside: Floats
    outside_query: Ints


def figures(part: Part, weight: Floats) -> dict[str, Floats]:
    """AUROC, AUPR with the strange pairs as positives, and FPR95.

    FPR95 is the share of the strange pairs that pass where 95 % of the known ones do.

    :param part: the distances.
    :param weight: ``[b, queries]`` how often each query counts, for each of ``b`` resamples.
    :return: each ``[b]``; nan where a resample lacks a side.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        order, places = np.argsort(part.inside, kind="stable"), np.argsort(part.outside, kind="stable")
        inside, outside = part.inside[order], part.outside[places]
        known, strange = weight[:, part.inside_query[order]], weight[:, part.outside_query[places]]
        below = np.concatenate([np.zeros((len(weight), 1)), known.cumsum(1)], axis=1)
        passed = np.concatenate([np.zeros((len(weight), 1)), strange.cumsum(1)], axis=1)
        n, m = below[:, -1], passed[:, -1]
        left = np.searchsorted(inside, outside, "left")
        # At the distance of each strange pair: how many strange and how many known pairs are at least as far.
        first = np.searchsorted(outside, outside, "left")
        true = m[:, None] - passed[:, first]
        false = n[:, None] - below[:, left]
        aupr = (strange * np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)).sum(1) / m
        cut = np.argmax(below[:, 1:] >= 0.95 * n[:, None] - 1e-9, axis=1)
        through = np.searchsorted(outside, inside[cut], "right")
        fpr = np.take_along_axis(passed, through[:, None], 1)[:, 0] / m
    areas = auroc(part.inside, part.outside, weight[:, part.inside_query], weight[:, part.outside_query])
    return {"auroc": areas, "aupr": aupr, "fpr95": fpr}


def resamples(queries: int, draws: int, *, seed: int) -> Floats:
    """Draw queries with replacement; the first row is the data as they are.

    :param queries: how many there are.
    :param draws: resamples.
    :param seed: of the draws.
    :return: ``[1 + draws, queries]`` how often each counts.
    """
    return np.concatenate([np.ones((1, queries)), *draw_counts(queries, draws=draws, seed=seed)])


def over_repetitions(parts: Sequence[Part], weight: Floats) -> dict[str, Floats]:
    """Average the figures over repetitions, which share the resampled queries.

    :param parts: of each repetition.
    :param weight: ``[b, queries]``.
    :return: each ``[b]``; the first is the point.
    """
    each = [figures(part, weight) for part in parts]
    return {name: np.nanmean([found[name] for found in each], axis=0) for name in FIGURES}


def interval(values: Floats) -> dict[str, float]:
    """A point with its 95 % percentile interval.

    :param values: ``[b]``, the point first.
    :return: JSON-ready values.
    """
    low, high = percentiles(values[1:])
    return {"mean": round(float(values[0]), 5), "low": round(low, 5), "high": round(high, 5)}


def claims(differences: Mapping[str, Floats]) -> dict[str, Any]:
    """A family of paired differences over the same resamples, adjusted together (Holm 1979).

    :param differences: by name, ``[b]``, the point first.
    :return: mean, interval, p (two-sided: how often a resample is on the other side of 0) and adjusted p.
    """
    p = {name: p_of_zero(values[1:]) for name, values in differences.items()}
    adjusted = holm(p)
    return {
        name: {**interval(values), "p": round(p[name], 5), "p_holm": round(adjusted[name], 5)}
        for name, values in differences.items()
    }
