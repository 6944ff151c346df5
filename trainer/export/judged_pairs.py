"""Judged pairs, to compare other graphs with ``model.onnx``."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.check import run_pairs
from darl_opensearch.io.digest import hash_int
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.scores import Columns, is_ood, score_chunks
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.run_folder import Trained
from trainer.training_data.run_data import RunData

NDCG_BOUND = 0.002  # of what another graph may change
LEAST_QUERIES = 200  # to compare nDCG on: two near-ties that swap change one query's by .07 to .3


@dataclass(frozen=True)
class JudgedPairs:
    """The judged pairs of some queries.

    :param texts: ``n`` of query and item; with several chunks, the item's whole text.
    :param gains: ``[n]``, of their grades.
    :param query_index: ``[n]`` int64.
    :param rows: ``[n, 3 + k]`` output of ``model.onnx``.
    """

    texts: list[tuple[str, str]]
    gains: NDArray[np.float64]
    query_index: NDArray[np.int64]
    rows: NDArray[np.float32]
    columns: Columns
    alpha: float
    cutoff: int

    @classmethod
    def of(cls, trained: Trained, data: RunData, queries: Sequence[JudgedQuery], model: Path) -> JudgedPairs:
        """Score the pairs of some queries with ``model.onnx``."""
        config, pairs = trained.config, data.judged(queries, whole=True)
        _, gains, query_index = pairs.numpy(config.grades.scale.gains)
        rows = score_chunks(partial(run_pairs, model, trained.model.tokenizer()), pairs.texts, data.chunks)
        columns = Columns(config.grades.scale.k)
        return cls(pairs.texts, gains, query_index, rows, columns, config.ood.alpha, config.stages.cutoff)

    def ndcg(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Compute the nDCG of each query that has one, in order."""
        values = ndcg_per_query(rows[:, 0], self.gains, self.query_index, cutoff=self.cutoff)
        return np.array([values[query] for query in sorted(values)])

    def ndcg_changes(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Compute each query's nDCG by another graph's output, minus that by ``model.onnx``."""
        return self.ndcg(rows) - self.ndcg(self.rows)

    def compare(self, rows: NDArray[Any], name: str) -> dict[str, Any]:
        """Compare another graph's output on the dev pairs.

        :param rows: ``[n, 3 + k]``.
        :param name: its key, beside ``fp32``.
        """
        difference = np.abs(self.rows[:, 0] - rows[:, 0])
        flags = [is_ood(out[:, self.columns.ood_score], self.alpha) for out in (self.rows, rows)]
        return {
            f"dev_ndcg@{self.cutoff}": {
                "fp32": round(float(self.ndcg(self.rows).mean()), 5),
                name: round(float(self.ndcg(rows).mean()), 5),
            },
            "score_difference": {"mean": round(float(difference.mean()), 5), "max": round(float(difference.max()), 5)},
            "dev_share_ood": {"fp32": round(float(flags[0].mean()), 4), name: round(float(flags[1].mean()), 4)},
            "ood_agreement": round(float((flags[0] == flags[1]).mean()), 4),
        }


def compare_on(trained: Trained, data: RunData, model: Path) -> tuple[JudgedPairs, ...]:
    """Gather what other graphs are compared on.

    :param model: ``model.onnx``.
    :return: the dev pairs and, where there are too few dev queries to compare nDCG on, those of training queries that
        are drawn by their hashes.
    """
    missing = max(0, LEAST_QUERIES - len(data.dev))
    drawn = heapq.nsmallest(missing, data.sampled, key=lambda query: hash_int(query.query_id))
    dev = JudgedPairs.of(trained, data, data.dev, model)
    return (dev, JudgedPairs.of(trained, data, drawn, model)) if drawn else (dev,)


def measure_change(compared: Sequence[JudgedPairs], rows: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Measure how another graph changes the nDCG of the queries.

    :param rows: its output for each of ``compared``.
    """
    changes = [pairs.ndcg_changes(part) for pairs, part in zip(compared, rows, strict=True)]
    return summarise_changes(np.concatenate(changes))


def summarise_changes(changes: NDArray[np.float64]) -> dict[str, Any]:
    """Summarise changes of nDCG by query: their number, mean and standard error."""
    error = float(changes.std(ddof=1) / np.sqrt(len(changes))) if len(changes) > 1 else 0.0
    return {"queries": len(changes), "mean": round(float(changes.mean()), 5), "standard_error": round(error, 5)}


def find_int8_obstacle(change: Mapping[str, Any]) -> str:
    """Return why a quantised graph must not be used, or ``""``: it changes nDCG by more than its bound, beyond luck.

    Two standard errors, not one as for fp32 states: quantisation swaps near-ties in many queries, and one would leave
    out every seventh graph that changes nothing.

    :param change: from :func:`measure_change`.
    """
    excess = abs(change["mean"]) - 2 * change["standard_error"]
    return f"nDCG differs by {excess:.4f} beyond two standard errors, bound {NDCG_BOUND}" if excess > NDCG_BOUND else ""
