"""A map of a selection: training queries, candidates and selected queries in two dimensions, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.numbers import round_figure
from trainer.dasa.registry import Floats

TRAINING, CANDIDATE, CHOSEN = "training", "candidate", "selected"
MOST_POINTS = 500  # of each kind: more hide one another


@dataclass(frozen=True)
class Mapped:
    """Queries of one kind.

    :param features: ``[n, h]``, which the selector has read; may be memory-mapped.
    :param rows: those of this kind.
    :param text: returns the query of a row.
    """

    features: Floats
    rows: NDArray[np.int64]
    text: Callable[[int], str]


def map_queries(kinds: Mapping[str, Mapped], *, seed: int) -> dict[str, Any]:
    """Project queries to the first two principal components of all that are shown (Pearson 1901).

    At most :data:`MOST_POINTS` of each kind are shown, sampled at random.

    :return: JSON-ready: ``kinds`` with the ``queries`` and ``shown`` of each; ``explained``, the share of the variance
        along each component, or None if there is no variance; ``points`` with ``kind``, ``query``, ``x`` and ``y``.
    """
    rng = np.random.default_rng([seed, 4])
    shown = {
        name: np.sort(rng.choice(kind.rows, MOST_POINTS, replace=False)) if len(kind.rows) > MOST_POINTS else kind.rows
        for name, kind in kinds.items()
    }
    counts = {name: {"queries": len(kind.rows), "shown": len(shown[name])} for name, kind in kinds.items()}
    filled = [np.asarray(kind.features[shown[name]]) for name, kind in kinds.items() if len(shown[name])]
    places, explained = project(np.concatenate(filled)) if filled else (np.zeros((0, 2)), None)
    queries = [(name, kinds[name].text(row)) for name, rows in shown.items() for row in rows.tolist()]
    points = [
        {"kind": name, "query": query, "x": round_figure(x), "y": round_figure(y)}
        for (name, query), (x, y) in zip(queries, places.tolist(), strict=True)
    ]
    return {"kinds": counts, "explained": explained, "points": points}


def project(rows: Floats) -> tuple[NDArray[np.float64], list[float | None] | None]:
    """Compute the first two principal components by the Gram matrix, whose size does not grow with the features.

    The largest coordinate along each is positive, whichever sign the library chose.

    :param rows: ``[n, h]``.
    :return: coordinates ``[n, 2]``, and the share of the variance along each; None if all rows are equal.
    """
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    total, places, shares = float(np.square(centred).sum()), np.zeros((len(rows), 2)), [0.0, 0.0]
    if total < 1e-9 * len(rows):  # rounding of unit vectors
        return places, None
    for component in range(min(2, len(rows))):
        value, along = max(float(values[-1 - component]), 0.0), vectors[:, -1 - component]
        places[:, component] = np.sqrt(value) * along * np.sign(along[np.abs(along).argmax()])
        shares[component] = value / total
    return places, [round_figure(share) for share in shares]
