"""Sources of training batches: queries with their items."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery


@dataclass(frozen=True)
class Batch:
    """Some queries with items, as pairs.

    :param queries: ``n`` query texts.
    :param items: ``n`` item texts.
    :param query_index: ``[n]`` int64, equal for pairs of one query.
    :param grades: ``[n]`` int64; -1 for unjudged pairs.
    :param teacher: ``[n]`` float, a teacher's scores; empty without a teacher.
    :param groups: ``n`` slice names.
    """

    queries: list[str]
    items: list[str]
    query_index: Tensor
    grades: Tensor
    teacher: Tensor
    groups: list[str]


class Source(Protocol):
    """Queries by number; the same numbers and epoch give the same batch."""

    @property
    def n_queries(self) -> int:
        """Number of queries."""

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries.

        :param queries: numbers from 0 on.
        :param epoch: seeds the draw from queries with too many items.
        """


class JudgedSource:
    """Judged queries, in memory or read from disk as they are drawn.

    :param cap: maximum items per query and step, see :func:`draw_items`.
    """

    def __init__(self, queries: Sequence[JudgedQuery], items: Mapping[str, Item], *, cap: int, seed: int) -> None:
        self.queries, self.items, self.cap, self.seed = queries, items, cap, seed
        self.n_queries = len(queries)

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Read the items of some queries."""
        drawn = [
            (number, query, place)
            for number in queries
            for query in (self.queries[number],)
            for place in draw_items(query.grades, self.cap, f"{self.seed}/{epoch}/{number}")
        ]
        return Batch(
            [query.query for _, query, _ in drawn],
            [self.items[query.item_ids[place]].text for _, query, place in drawn],
            torch.tensor([number for number, _, _ in drawn], dtype=torch.long),
            torch.tensor([query.grades[place] for _, query, place in drawn], dtype=torch.long),
            torch.zeros(0),
            [query.slice for _, query, _ in drawn],
        )


def draw_items(grades: Sequence[int], cap: int, seed: str) -> list[int]:
    """Draw the places of at most ``cap`` items of a query, ascending; relevant ones get half of them first."""
    places = list(range(len(grades)))
    if len(places) <= cap:
        return places
    random.Random(seed).shuffle(places)
    relevant = [place for place in places if grades[place] > 0][: cap // 2]
    chosen = set(relevant)
    return sorted([*relevant, *(place for place in places if place not in chosen)][:cap])
