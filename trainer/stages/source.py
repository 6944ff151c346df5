"""What a stage trains on: queries with their items, a few at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.stages.data import Pairs


@dataclass(frozen=True)
class Batch:
    """Some queries with items.

    :param queries: ``n`` query texts, one a pair.
    :param items: ``n`` item texts.
    :param query_index: ``[n]`` int64, equal for pairs of one query.
    :param grades: ``[n]`` int64; empty where nobody judged.
    :param teacher: ``[n]`` float, a teacher's scores; empty where there is none.
    :param groups: ``n`` slice names, one a pair.
    """

    queries: list[str]
    items: list[str]
    query_index: Tensor
    grades: Tensor
    teacher: Tensor
    groups: list[str]


class Source(Protocol):
    """Queries that can be drawn by number; the same number and epoch give the same batch."""

    @property
    def n_queries(self) -> int:
        """How many queries there are."""

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries.

        :param queries: numbers from 0 on.
        :param epoch: of the draw, where a query has more items than fit.
        :return: their pairs.
        """


class JudgedSource:
    """Judged pairs in memory.

    :param pairs: the pairs.
    :param cap: most items of a query in a step; relevant ones fill at most half of the places.
    :param seed: of the draw.
    :param slices: name of each query's part of traffic; none: all are one.
    """

    def __init__(self, pairs: Pairs, *, cap: int, seed: int, slices: Sequence[str] = ()) -> None:
        self.pairs, self.cap, self.seed = pairs, cap, seed
        self.slices = list(slices) or [""] * len(pairs.queries)
        order = pairs.query_index.argsort(stable=True)
        counts = torch.bincount(pairs.query_index, minlength=len(pairs.queries))
        self._rows = [rows.tolist() for rows in order.split(counts.tolist())]

    @property
    def n_queries(self) -> int:
        """How many queries there are."""
        return len(self.pairs.queries)

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries.

        :param queries: numbers from 0 on.
        :param epoch: of the draw.
        :return: their pairs.
        """
        rows = [row for query in queries for row in self._draw(query, epoch)]
        index = self.pairs.index[rows]
        return Batch(
            [self.pairs.queries[q] for q in index[:, 0].tolist()], [self.pairs.items[i] for i in index[:, 1].tolist()],
            index[:, 0], self.pairs.grades[rows], torch.zeros(0), [self.slices[q] for q in index[:, 0].tolist()],
        )  # fmt: skip

    def _draw(self, query: int, epoch: int) -> list[int]:
        rows: list[int] = list(self._rows[query])
        if len(rows) > self.cap:
            random.Random(f"{self.seed}/{epoch}/{query}").shuffle(rows)
            relevant = [row for row in rows if self.pairs.grades[row] > 0][: self.cap // 2]
            chosen = set(relevant)
            rows = [*relevant, *(row for row in rows if row not in chosen)][: self.cap]
        return sorted(rows)
