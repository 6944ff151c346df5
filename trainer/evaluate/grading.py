"""Metrics of predicted grades and grade probabilities, as sums over queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.scores import grade_of
from darl_opensearch.stats.bootstrap import Figure, Floats, ratio, share_of_pairs
from darl_opensearch.stats.grades import (
    calibration_error,
    calibration_sums,
    confusion_by_query,
    macro_f1,
    off_by_two,
    quadratic_kappa,
    ranked_probability_score,
    reliability,
)


@dataclass(frozen=True)
class Grading:
    """A model's grade probabilities for judged pairs, with the judges' grades.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` by the judges.
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
        """Most probable grade, ``[n]``; the lower of a tie."""
        return grade_of(self.grade_probs)

    def confusion(self) -> NDArray[np.int64]:
        """Count pairs, ``[k, k]``, by given grade (rows) and predicted grade (columns)."""
        counts: NDArray[np.int64] = self._tables().sum(0).astype(np.int64)
        return counts

    def reliability(self) -> list[dict[str, float]]:
        """Compare confidence with accuracy, as :func:`darl_opensearch.stats.grades.reliability` does."""
        return reliability(self.grade_probs, self.grades)

    def figures(self) -> dict[str, Figure]:
        """Compute all metrics of grades.

        :return: ``macro_f1``, ``quadratic_kappa``, ``off_by_two`` (from three grades on), ``ece``, ``rps``.
        """
        tables = self._tables()
        counts = tables.sum((1, 2)) > 0
        gaps = calibration_sums(self.grade_probs, self.grades, self.query_index, self.n_queries)
        figures = {
            "macro_f1": Figure(tables, macro_f1, counts),
            "quadratic_kappa": Figure(tables, quadratic_kappa, counts),
            "ece": Figure(gaps, calibration_error, counts),
            "rps": self._rps(),
        }
        if self.k > 2:
            figures["off_by_two"] = Figure(tables, off_by_two, counts)
        return figures

    def rps_by_query(self) -> Floats:
        """Average the ranked probability score per query, ``[n_queries]``; nan for a query without pairs."""
        return ratio(self._rps().sums)

    def _tables(self) -> Floats:
        return confusion_by_query(self.grades, self.predicted, self.k, self.query_index, self.n_queries)

    def _rps(self) -> Figure:
        errors = ranked_probability_score(self.grade_probs, self.grades)
        return share_of_pairs(errors, self.query_index, self.n_queries)
