"""Metrics of one system on one part, or on a slice of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import UsageError
from darl_opensearch.stats.bootstrap import Figure, Floats, mean_over_queries, share_of_pairs
from trainer.evaluate.grading import Grading
from trainer.evaluate.parts import JudgedPart
from trainer.evaluate.ranking import rank_figures
from trainer.evaluate.systems import Ratings

SHARE_OOD = "share_ood"


@dataclass(frozen=True)
class Scale:
    """Gains, cutoffs and the relevance threshold of the metrics.

    :param relevant_from: lowest grade that counts as relevant in binary metrics.
    """

    gains: tuple[float, ...]
    cutoffs: tuple[int, ...]
    relevant_from: int

    @classmethod
    def of(cls, gains: tuple[float, ...], cutoffs: Iterable[int], relevant_from: int, *, where: str) -> Scale:
        """Check the lowest relevant grade, and sort the cutoffs.

        :raises UsageError: for the lowest grade, or one outside the scale.
        """
        if not 0 < relevant_from < len(gains):
            raise UsageError(
                f"grade {relevant_from} does not split the scale 0..{len(gains) - 1} in two", where=where,
                todo=f"name a grade in 1..{len(gains) - 1}",
            )  # fmt: skip
        return cls(gains, tuple(sorted(set(cutoffs))), relevant_from)


@dataclass(frozen=True)
class Measured:
    """Metrics of some judged pairs.

    :param by_query: ranking metrics and ``rps``, ``[q]``; nan for queries without a value.
    :param grading: the predicted grades, or None for a system that only ranks.
    """

    figures: dict[str, Figure]
    by_query: dict[str, Floats]
    grading: Grading | None
    pairs: int
    queries: int

    @property
    def compared(self) -> dict[str, Floats]:
        """Metrics that systems are compared by, query by query: nDCG and the ranked probability score."""
        return {name: self.by_query[name] for name in sorted(self.by_query) if name == "rps" or name.startswith("ndcg")}


def measure(part: JudgedPart, ratings: Ratings, scale: Scale, *, rows: NDArray[np.int64] | None = None) -> Measured:
    """Measure a system on a part.

    :param rows: only these pairs; each query's ranking is then over its remaining pairs.
    """
    rows = np.arange(len(part)) if rows is None else rows
    queries, query_index = np.unique(part.query_index[rows], return_inverse=True)
    ids = [part.queries[query].query_id for query in queries]
    judged: dict[str, dict[str, int]] = {query_id: {} for query_id in ids}
    for row, query in zip(rows, query_index, strict=True):
        judged[ids[query]][part.item_ids[row]] = int(part.grades[row])
    by_query = _measure_order(rank_judged(part, ratings, rows), judged, scale)
    by_query = {name: values for name, values in by_query.items() if not name.startswith("judged")}
    figures = {name: mean_over_queries(values) for name, values in by_query.items()}
    answers, grading = ratings.rows(rows), None
    if answers.is_ood is not None:
        figures[SHARE_OOD] = share_of_pairs(answers.is_ood.astype(np.float64), query_index, len(ids))
    if answers.grade_probs is not None and answers.grade_probs.shape[1] == len(scale.gains):  # else other grades
        grading = Grading(answers.grade_probs, part.grades[rows], query_index, len(ids))
        figures |= grading.figures()
        by_query["rps"] = grading.rps_by_query()
    return Measured(figures, by_query, grading, len(rows), len(ids))


def measure_rankings(part: JudgedPart, ranked: Mapping[str, Sequence[str]], scale: Scale) -> Measured:
    """Measure rankings of any items against a part's judgments; unjudged items have gain 0.

    :param ranked: items by query id, best first.
    :return: metrics, including ``judged@c``.
    """
    by_query = _measure_order(ranked, map_grades(part), scale)
    figures = {name: mean_over_queries(values) for name, values in by_query.items()}
    return Measured(figures, by_query, None, len(part), part.n_queries)


def map_grades(part: JudgedPart) -> dict[str, dict[str, int]]:
    """Map query ids to the grades of their items."""
    return {q.query_id: dict(zip(q.item_ids, q.grades, strict=True)) for q in part.queries}


def rank_judged(part: JudgedPart, ratings: Ratings, rows: NDArray[np.int64] | None = None) -> dict[str, list[str]]:
    """Order each query's judged items by score, ties in the part's own random order.

    :return: item ids by query id, best first.
    """
    rows = np.arange(len(part)) if rows is None else rows
    order = rows[np.lexsort((np.arange(len(rows)), -ratings.score[rows], part.query_index[rows]))]
    ranked: dict[str, list[str]] = {}
    for row in order:
        ranked.setdefault(part.queries[part.query_index[row]].query_id, []).append(part.item_ids[row])
    return ranked


def _measure_order(
    ranked: Mapping[str, Sequence[str]], judged: Mapping[str, Mapping[str, int]], scale: Scale
) -> dict[str, Floats]:
    """Compute ranking metrics of the judged queries, ``[q]`` each; nan for queries without a value."""
    values = rank_figures(ranked, judged, scale.gains, cutoffs=scale.cutoffs, relevant_from=scale.relevant_from)
    order = [*(f"{what}@{c}" for what in ("ndcg", "p", "judged") for c in scale.cutoffs), "ap", "rr"]
    return {name: np.array([values[name].get(query_id, np.nan) for query_id in judged]) for name in order}
