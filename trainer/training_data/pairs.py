"""Pairs of query and item, as indices of distinct texts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from trainer.data.splits import Retrieved


@dataclass(frozen=True)
class Pairs:
    """Judged or unjudged pairs, as indices of distinct texts.

    :param index: ``[n, 2]`` int64, positions of query and item.
    :param grades: ``[n]`` int64; empty for unjudged pairs.
    """

    queries: tuple[str, ...]
    items: tuple[str, ...]
    index: Tensor
    grades: Tensor

    @classmethod
    def of_judged(cls, queries: Sequence[JudgedQuery], items: Mapping[str, Item]) -> Pairs:
        """Arrange judged queries as pairs."""
        grades = [grade for query in queries for grade in query.grades]
        return cls._of([(query.query, query.item_ids) for query in queries], items, grades)

    @classmethod
    def of_retrieved(cls, queries: Retrieved, items: Mapping[str, Item]) -> Pairs:
        """Arrange queries with retrieved items as pairs, without grades."""
        return cls._of([(query.query, item_ids) for query, item_ids in queries], items, [])

    @classmethod
    def _of(cls, rows: Sequence[tuple[str, Sequence[str]]], items: Mapping[str, Item], grades: list[int]) -> Pairs:
        row_of = {
            item_id: row for row, item_id in enumerate(dict.fromkeys(i for _, item_ids in rows for i in item_ids))
        }
        index = [(row, row_of[item_id]) for row, (_, item_ids) in enumerate(rows) for item_id in item_ids]
        return cls(
            tuple(query for query, _ in rows), tuple(items[item_id].text for item_id in row_of),
            torch.tensor(index, dtype=torch.long).reshape(-1, 2), torch.tensor(grades, dtype=torch.long),
        )  # fmt: skip

    def select(self, rows: Tensor) -> Pairs:
        """Select judged pairs.

        :param rows: ``[m]`` int64.
        """
        return dataclasses.replace(self, index=self.index[rows], grades=self.grades[rows])

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the texts and of how they are paired, without the grades."""
        found = hashlib.sha256(self.index.numpy().tobytes())
        for side in (self.queries, self.items):
            found.update(f"{len(side)}".encode())
            for text in side:
                found.update(f" {len(text)} {text}".encode(errors="surrogatepass"))
        return found.digest()

    @property
    def query_index(self) -> Tensor:
        """Query of each pair, ``[n]``."""
        return self.index[:, 0]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Query and item text of each pair."""
        return [(self.queries[query], self.items[item]) for query, item in self.index.tolist()]

    def numpy(self, gains: Sequence[float]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Grades, gains and query index for the metrics, each ``[n]``."""
        grades = self.grades.numpy()
        return grades, np.asarray(gains)[grades], self.query_index.numpy()
