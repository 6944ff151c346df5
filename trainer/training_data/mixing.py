"""Composite sources: two concatenated, new queries with replayed old ones, pairs with a teacher's scores."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence

import torch

from trainer.training_data.source import Batch, Source


class Together:
    """The queries of one source, then those of another."""

    def __init__(self, first: Source, second: Source) -> None:
        self.first, self.second = first, second
        self.n_queries = first.n_queries + second.n_queries

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries."""
        border = self.first.n_queries
        return join_batches(
            self.first.batch([query for query in queries if query < border], epoch),
            self.second.batch([query - border for query in queries if query >= border], epoch),
        )


class Replayed:
    """New queries with old ones, resampled each epoch, against forgetting.

    Rolnick et al. 2019, arXiv:1811.11682 (experience replay).

    :param ratio: old queries per new query, without repetition; at most all of them.
    """

    def __init__(self, new: Source, old: Source, *, ratio: float, seed: int) -> None:
        self.new, self.old, self.seed = new, old, seed
        self.replayed = min(old.n_queries, round(ratio * new.n_queries))
        self.n_queries = new.n_queries + self.replayed
        self._order: tuple[int, list[int]] = (-1, [])

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries."""
        if self._order[0] != epoch:
            draw = random.Random(f"{self.seed}/replay/{epoch}").sample(range(self.old.n_queries), self.replayed)
            self._order = (epoch, draw)
        border = self.new.n_queries
        return join_batches(
            self.new.batch([query for query in queries if query < border], epoch),
            self.old.batch([self._order[1][query - border] for query in queries if query >= border], epoch),
        )


class Taught:
    """A source whose pairs carry a teacher's scores.

    :param scores: by query text and item text; missing ones become NaN.
    """

    def __init__(self, source: Source, scores: Mapping[str, Mapping[str, float]]) -> None:
        self.source, self.scores, self.n_queries = source, scores, source.n_queries

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries."""
        batch = self.source.batch(queries, epoch)
        pairs = zip(batch.queries, batch.items, strict=True)
        scores = [self.scores.get(query, {}).get(item, math.nan) for query, item in pairs]
        return dataclasses.replace(batch, teacher=torch.tensor(scores, dtype=torch.float32))


def join_batches(first: Batch, second: Batch) -> Batch:
    """Concatenate two batches; their queries stay distinct."""
    offset = int(first.query_index.max()) + 1 if len(first.query_index) else 0
    return Batch(
        [*first.queries, *second.queries], [*first.items, *second.items],
        torch.cat([first.query_index, second.query_index + offset]), torch.cat([first.grades, second.grades]),
        torch.cat([first.teacher, second.teacher]), [*first.groups, *second.groups],
    )  # fmt: skip
