"""What a stage trains on: queries with their items, a few at a time."""

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
    """Some queries with items.

    :param queries: ``n`` query texts, one a pair.
    :param items: ``n`` item texts.
    :param query_index: ``[n]`` int64, equal for pairs of one query.
    :param grades: ``[n]`` int64; -1 where nobody judged.
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
    """Judged queries, in memory or read from disk as they are drawn.

    :param cap: most items of a query in a step; relevant ones fill at most half of the places.
    """

    def __init__(self, queries: Sequence[JudgedQuery], items: Mapping[str, Item], *, cap: int, seed: int) -> None:
        self.queries, self.items, self.cap, self.seed = queries, items, cap, seed

    @property
    def n_queries(self) -> int:
        """How many queries there are."""
        return len(self.queries)

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
