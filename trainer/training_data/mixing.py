"""Sources made of other sources: two side by side, new queries with replayed old ones, a teacher's scores."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence

import torch

from trainer.training_data.source import Batch, Source


class Together:
    """The queries of one source after those of another.

    :param first: numbers from 0 on.
    """

    def __init__(self, first: Source, second: Source) -> None:
        self.first, self.second = first, second

    @property
    def n_queries(self) -> int:
        """How many queries there are."""
        return self.first.n_queries + self.second.n_queries

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries."""
        border = self.first.n_queries
        return join_batches(
            self.first.batch([query for query in queries if query < border], epoch),
            self.second.batch([query - border for query in queries if query >= border], epoch),
        )


class Replayed:
    """New queries, and with them in each epoch other old ones, so that the old is not forgotten.

    Rolnick et al. 2019, arXiv:1811.11682 (experience replay).

    :param old: of these a draw without repetition.
    :param ratio: old queries a new one; where there are not so many, all of them.
    """

    def __init__(self, new: Source, old: Source, *, ratio: float, seed: int) -> None:
        self.new, self.old, self.seed = new, old, seed
        self.drawn = min(old.n_queries, round(ratio * new.n_queries))
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def n_queries(self) -> int:
        """Queries of an epoch."""
        return self.new.n_queries + self.drawn

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries."""
        if self._order[0] != epoch:
            draw = random.Random(f"{self.seed}/replay/{epoch}").sample(range(self.old.n_queries), self.drawn)
            self._order = (epoch, draw)
        border = self.new.n_queries
        return join_batches(
            self.new.batch([query for query in queries if query < border], epoch),
            self.old.batch([self._order[1][query - border] for query in queries if query >= border], epoch),
        )


class Taught:
    """A source whose pairs carry a teacher's scores.

    :param scores: by query text and item text; a pair without one gets NaN.
    """

    def __init__(self, source: Source, scores: Mapping[str, Mapping[str, float]]) -> None:
        self.source, self.scores = source, scores

    @property
    def n_queries(self) -> int:
        """How many queries there are."""
        return self.source.n_queries

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        """Draw the items of some queries."""
        batch = self.source.batch(queries, epoch)
        pairs = zip(batch.queries, batch.items, strict=True)
        scores = [self.scores.get(query, {}).get(item, math.nan) for query, item in pairs]
        return dataclasses.replace(batch, teacher=torch.tensor(scores, dtype=torch.float32))


def join_batches(first: Batch, second: Batch) -> Batch:
    """Put the pairs of one batch after those of another; their queries stay apart."""
    offset = int(first.query_index.max()) + 1 if len(first.query_index) else 0
    return Batch(
        [*first.queries, *second.queries], [*first.items, *second.items],
        torch.cat([first.query_index, second.query_index + offset]), torch.cat([first.grades, second.grades]),
        torch.cat([first.teacher, second.teacher]), [*first.groups, *second.groups],
    )  # fmt: skip
