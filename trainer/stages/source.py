"""What a stage trains on: queries with their items, a few at a time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from trainer.data.judgments import Item, JudgedQuery
from trainer.stages.data import Pairs, RunData


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
        """


class JudgedSource:
    """Judged pairs in memory.

    :param cap: most items of a query in a step; relevant ones fill at most half of the places.
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
        """
        rows = [row for query in queries for row in self._draw(query, epoch)]
        index = self.pairs.index[rows]
        return Batch(
            [self.pairs.queries[q] for q in index[:, 0].tolist()], [self.pairs.items[i] for i in index[:, 1].tolist()],
            index[:, 0], self.pairs.grades[rows], torch.zeros(0), [self.slices[q] for q in index[:, 0].tolist()],
        )  # fmt: skip

    def _draw(self, query: int, epoch: int) -> list[int]:
        rows: list[int] = self._rows[query]
        if len(rows) <= self.cap:
            return rows
        places = drawn(self.pairs.grades[rows].tolist(), self.cap, f"{self.seed}/{epoch}/{query}")
        return [rows[place] for place in places]


class StoreSource:
    """Judged queries that are read when they are drawn; the same batches as :class:`JudgedSource` gives.

    :param queries: the queries, such as :class:`trainer.data.disk.StoredQueries`.
    :param items: every item, such as :class:`trainer.data.disk.StoredItems`.
    :param cap: most items of a query in a step; relevant ones fill at most half of the places.
    """

    def __init__(self, queries: Sequence[JudgedQuery], items: Mapping[str, Item], *, cap: int, seed: int) -> None:
        self.queries, self.items, self.cap, self.seed = queries, items, cap, seed

    @property
    def n_queries(self) -> int:
        """How many queries there are."""
        return len(self.queries)

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Read the items of some queries.

        :param queries: numbers from 0 on.
        """
        texts: list[str] = []
        items: list[str] = []
        groups: list[str] = []
        index: list[int] = []
        grades: list[int] = []
        for number in queries:
            query = self.queries[number]
            places = drawn(query.grades, self.cap, f"{self.seed}/{epoch}/{number}")
            texts += [query.query] * len(places)
            items += [self.items[query.item_ids[place]].text for place in places]
            groups += [query.slice] * len(places)
            index += [number] * len(places)
            grades += [query.grades[place] for place in places]
        long = partial(torch.tensor, dtype=torch.long)
        return Batch(texts, items, long(index), long(grades), torch.zeros(0), groups)


def training_source(data: RunData, *, cap: int, seed: int) -> Source:
    """Make the source of a run's training queries, from memory or from disk.

    :param cap: most items of a query in a step.
    :return: the source; both give the same batches.
    """
    if isinstance(data.train, list):
        slices = [query.slice for query in data.train]
        return JudgedSource(data.judged(data.train), cap=cap, seed=seed, slices=slices)
    return StoreSource(data.train, data.items, cap=cap, seed=seed)


def drawn(grades: Sequence[int], cap: int, seed: str) -> list[int]:
    """Draw some items of a query.

    :param cap: most items; relevant ones fill at most half of the places.
    :return: their places, ascending; where all fit, all of them.
    """
    places = list(range(len(grades)))
    if len(places) <= cap:
        return places
    random.Random(seed).shuffle(places)
    relevant = [place for place in places if grades[place] > 0][: cap // 2]
    chosen = set(relevant)
    return sorted([*relevant, *(place for place in places if place not in chosen)][:cap])
