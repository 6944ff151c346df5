"""Figures of predicted grades and their probabilities, as sums over queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.scores import grade_of
from trainer.evaluate.metrics import confidence_bins, ranked_probability_score
from trainer.evaluate.resample import Figure, Floats, share_of_pairs

BINS = 15


@dataclass(frozen=True)
class Grading:
    """What a model says of judged pairs, beside what the judges say.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` given.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    """

    grade_probs: Floats
    grades: NDArray[np.int64]
    query_index: NDArray[np.int64]
    n_queries: int

    @property
    def k(self) -> int:
        """Number of grades."""
        return int(self.grade_probs.shape[1])

    @property
    def predicted(self) -> NDArray[np.int64]:
        """``[n]`` most probable grade, ties to the lower."""
        return grade_of(self.grade_probs)

    def confusion(self) -> NDArray[np.int64]:
        """Count pairs.

        :return: ``[k, k]``, rows the given grade, columns the predicted one.
        """
        table = np.zeros((self.k, self.k), dtype=np.int64)
        np.add.at(table, (self.grades, self.predicted), 1)
        return table

    def reliability(self) -> list[dict[str, Any]]:
        """Hold confidence against accuracy in each bin of the calibration error.

        :return: ``pairs``, ``confidence`` and ``accuracy`` of each, the least confident bin first.
        """
        confidence, right = self.grade_probs.max(1), self.predicted == self.grades
        return [
            {"pairs": len(rows), "confidence": float(confidence[rows].mean()), "accuracy": float(right[rows].mean())}
            for rows in confidence_bins(self.grade_probs, bins=BINS)
        ]

    def figures(self) -> dict[str, Figure]:
        """Everything that is measured of grades.

        :return: ``macro_f1``, ``quadratic_kappa``, ``off_by_two`` (from three grades on), ``ece``, ``rps``.
        """
        table = np.zeros((self.n_queries, self.k, self.k))
        np.add.at(table, (self.query_index, self.grades, self.predicted), 1.0)
        flat, k = table.reshape(self.n_queries, -1), self.k
        counts = flat.sum(1) > 0
        found = {
            "macro_f1": Figure(flat, lambda totals: macro_f1_of(totals, k), counts),
            "quadratic_kappa": Figure(flat, lambda totals: quadratic_kappa_of(totals, k), counts),
            "ece": Figure(self._by_bin(), _calibration_error, counts),
            "rps": self._share(ranked_probability_score(self.grade_probs, self.grades)),
        }
        if k > 2:
            found["off_by_two"] = self._share((np.abs(self.predicted - self.grades) >= 2).astype(np.float64))
        return found

    def rps_by_query(self) -> Floats:
        """Average the ranked probability score within each query.

        :return: ``[n_queries]``, nan for a query without pairs.
        """
        figure = self._share(ranked_probability_score(self.grade_probs, self.grades))
        return figure.value(figure.sums)

    def _share(self, values: Floats) -> Figure:
        return share_of_pairs(values, self.query_index, self.n_queries)

    def _by_bin(self) -> Floats:
        """``[q, 2 * bins]``: confidence less accuracy, then pairs. A resample keeps the bins of the whole."""
        bins = confidence_bins(self.grade_probs, bins=BINS)
        sums = np.zeros((self.n_queries, 2, max(1, len(bins))))
        gap = self.grade_probs.max(1) - (self.predicted == self.grades)
        for place, rows in enumerate(bins):
            np.add.at(sums[:, 0, place], self.query_index[rows], gap[rows])
            np.add.at(sums[:, 1, place], self.query_index[rows], 1.0)
        return sums.reshape(self.n_queries, -1)


def _calibration_error(totals: Floats) -> Floats:
    gap, pairs = np.split(totals, 2, axis=-1)
    n = pairs.sum(-1)
    return np.where(n > 0, np.abs(gap).sum(-1) / np.where(n > 0, n, 1.0), np.nan)


def macro_f1_of(totals: Floats, k: int) -> Floats:
    """Mean F1 over the grades that occur in truth or prediction, of many tables at once.

    :param totals: ``[..., k * k]`` flat tables of given by predicted grade.
    :return: ``[...]``, nan for an empty table.
    """
    table = totals.reshape(*totals.shape[:-1], k, k)
    hit = np.diagonal(table, axis1=-2, axis2=-1)
    both = table.sum(-1) + table.sum(-2)
    occurs = both > 0
    f1 = np.where(occurs, 2 * hit / np.where(occurs, both, 1.0), 0.0)
    n = occurs.sum(-1)
    return np.where(n > 0, f1.sum(-1) / np.maximum(n, 1), np.nan)


def quadratic_kappa_of(totals: Floats, k: int) -> Floats:
    """Cohen's kappa with quadratic weights (Cohen 1968), of many tables at once.

    :param totals: ``[..., k * k]`` flat tables of given by predicted grade.
    :return: ``[...]``, nan where both sides are constant and equal.
    """
    table = totals.reshape(*totals.shape[:-1], k, k)
    weight = np.square(np.subtract.outer(np.arange(k), np.arange(k))).astype(np.float64)
    n = np.maximum(table.sum((-1, -2)), 1.0)
    expected = table.sum(-1)[..., :, None] * table.sum(-2)[..., None, :] / n[..., None, None]
    chance, seen = (weight * expected).sum((-1, -2)), (weight * table).sum((-1, -2))
    return np.where(chance > 0, 1.0 - seen / np.where(chance > 0, chance, 1.0), np.nan)
