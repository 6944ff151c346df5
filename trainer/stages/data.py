"""Everything a run reads, split and digested once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from darl_opensearch.errors import InputError
from darl_opensearch.text import ItemRenderer, cut_to_tokens
from trainer.config import Config
from trainer.data.judgments import (
    Item,
    JudgedQuery,
    TrafficQuery,
    check_disjoint,
    digest,
    read_items,
    read_judgments,
    read_traffic,
)
from trainer.data.splits import calibration_pairs, hold_out
from trainer.models.base import Backbone, FeatureTable, PairFeatures

Query = TypeVar("Query", JudgedQuery, TrafficQuery)


@dataclass(frozen=True)
class Pairs:
    """Judged or unjudged pairs as rows over distinct texts.

    :param queries: query texts.
    :param items: item texts.
    :param index: ``[n, 2]`` int64, rows of queries and items.
    :param grades: ``[n]`` int64; empty for unjudged pairs.
    """

    queries: tuple[str, ...]
    items: tuple[str, ...]
    index: Tensor
    grades: Tensor

    @property
    def query_index(self) -> Tensor:
        """``[n]`` which query each pair is of."""
        return self.index[:, 0]

    def gains(self, gains: Sequence[float]) -> Tensor:
        """Gains over the highest gain.

        :param gains: of each grade.
        :return: ``[n]`` float in [0, 1].
        """
        table = torch.tensor(gains, dtype=torch.float32)
        return table[self.grades] / table[-1]

    def numpy(self, gains: Sequence[float]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """What the metrics take.

        :param gains: of each grade.
        :return: grades, gains and query index, each ``[n]``.
        """
        grades = self.grades.numpy()
        return grades, np.asarray(gains)[grades], self.query_index.numpy()


class Features:
    """Features of fixed sets of pairs, encoded once while the encoder stays as it is.

    :param model: the backbone.
    :param advance: called with the number of texts just encoded.
    """

    def __init__(self, model: Backbone, advance: Callable[[int], object] = lambda n: None) -> None:
        self.model, self.advance = model, advance
        self._tables: dict[int, tuple[Pairs, FeatureTable]] = {}
        self._halves: dict[str, Tensor] = {}

    def of(self, pairs: Pairs) -> FeatureTable:
        """Features of some pairs.

        :param pairs: judged or not.
        :return: their features under the encoder as it is.
        """
        if id(pairs) not in self._tables:
            table = self.model.feature_table(pairs.queries, pairs.items, pairs.index, advance=self.advance)
            self._tables[id(pairs)] = (pairs, table)  # the pairs are kept: their id stays theirs
            if self.model.halves == 2:
                for texts, rows in zip((pairs.queries, pairs.items), table.tables, strict=True):
                    self._halves |= dict(zip(texts, rows, strict=True))
        return self._tables[id(pairs)][1]

    def halves(self, pairs: Pairs) -> PairFeatures:
        """Halves of some pairs, for what does not read how their tokens meet.

        :param pairs: judged or not.
        :return: features; of a backbone that reads query and item apart, ``similarity`` is empty.
        """
        if self.model.halves == 1:
            return self.of(pairs).spelt_out()
        texts = [text for text in dict.fromkeys([*pairs.queries, *pairs.items]) if text not in self._halves]
        self._halves |= dict(zip(texts, self.model.pooled(texts, advance=self.advance), strict=True))
        width = len(next(iter(self._halves.values())))
        query, item = (
            torch.stack([self._halves[text] for text in side]) if side else torch.zeros(0, width)
            for side in (pairs.queries, pairs.items)
        )
        return PairFeatures(torch.zeros(len(pairs.index), 0), (query[pairs.index[:, 0]], item[pairs.index[:, 1]]))

    def forget(self) -> None:
        """Drop everything: the encoder has changed."""
        self._tables, self._halves = {}, {}

    def saved(self) -> Callable[[], None]:
        """Remember what is encoded now.

        :return: a function that brings it back, for an encoder that was rolled back.
        """
        tables, halves = self._tables, self._halves

        def restore() -> None:
            self._tables, self._halves = tables, halves

        return restore


@dataclass(frozen=True)
class RunData:
    """What a run trains, stops, calibrates and reports on.

    :param items: the catalogue.
    :param train: training queries.
    :param dev: queries for early stopping, rollback and grade calibration.
    :param traffic: held-out queries with the retrieved items that nothing was trained on.
    :param familiar: the same queries with the retrieved items that were.
    :param new: newly selected queries, for the augmented stage.
    :param ood_dev: queries of traffic unlike the training set's, which choose in the augmented stages.
    :param pool: queries with items that nobody judged, for a teacher to score.
    """

    items: dict[str, Item]
    train: list[JudgedQuery]
    dev: list[JudgedQuery]
    traffic: list[tuple[TrafficQuery, tuple[str, ...]]]
    familiar: list[tuple[TrafficQuery, tuple[str, ...]]] = field(default_factory=list)
    new: list[JudgedQuery] = field(default_factory=list)
    ood_dev: list[JudgedQuery] = field(default_factory=list)
    pool: list[TrafficQuery] = field(default_factory=list)

    @property
    def learnt(self) -> list[JudgedQuery]:
        """Judged queries that the detector calls known: all but the OOD dev queries."""
        return [*self.train, *self.dev, *self.new]

    def judged(self, queries: Sequence[JudgedQuery]) -> Pairs:
        """Lay judged queries out as pairs.

        :param queries: some of them.
        :return: the pairs.
        """
        return self._pairs([(q.query, q.item_ids) for q in queries], [g for q in queries for g in q.grades])

    def unjudged(self, queries: Sequence[tuple[TrafficQuery, tuple[str, ...]]]) -> Pairs:
        """Lay traffic out as pairs.

        :param queries: some of it.
        :return: the pairs, without grades.
        """
        return self._pairs([(q.query, ids) for q, ids in queries], [])

    def _pairs(self, rows: Sequence[tuple[str, Sequence[str]]], grades: list[int]) -> Pairs:
        ids = list(dict.fromkeys(item_id for _, item_ids in rows for item_id in item_ids))
        where = {item_id: row for row, item_id in enumerate(ids)}
        index = [(row, where[item_id]) for row, (_, item_ids) in enumerate(rows) for item_id in item_ids]
        return Pairs(
            tuple(query for query, _ in rows), tuple(self.items[i].text for i in ids),
            torch.tensor(index, dtype=torch.long).reshape(-1, 2), torch.tensor(grades, dtype=torch.long),
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Counts and digests, for the run and the card.

        :return: JSON-ready values.
        """
        told: dict[str, Any] = {
            "items": {"count": len(self.items), "sha256": digest(self.items.values())},
            "train": _count(self.train),
            "dev": _count(self.dev),
            "traffic": {"queries": len(self.traffic), "pairs": sum(len(i) for _, i in self.traffic),
                        "sha256": digest(q for q, _ in self.traffic)},
        }  # fmt: skip
        optional: dict[str, Sequence[JudgedQuery] | Sequence[TrafficQuery]] = {
            "new": self.new,
            "ood_dev": self.ood_dev,
            "pool": self.pool,
        }
        return told | {name: _count(part) for name, part in optional.items() if part}


def _count(queries: Sequence[JudgedQuery] | Sequence[TrafficQuery]) -> dict[str, Any]:
    return {"queries": len(queries), "pairs": sum(len(q.item_ids) for q in queries), "sha256": digest(queries)}


def read_data(config: Config, folder: Path, tokenizer: Tokenizer) -> RunData:
    """Read and split everything a configuration names.

    :param config: the configuration.
    :param folder: what its paths are relative to.
    :param tokenizer: the base model's, for the item cap.
    :return: the data.
    :raises InputError: naming file, line and field of what is wrong.
    """
    k = config.grades.scale.k
    renderer = ItemRenderer(config.template.item_template, tokenizer, config.model.item_cap)
    items = read_items(folder / config.data.items, renderer)
    train = read_judgments(folder / config.data.judgments, items, k)
    held: list[TrafficQuery]
    if config.data.traffic:
        held = read_traffic(folder / config.data.traffic, items)
    else:
        train, spare = hold_out(train, config.data.traffic_share, config.seed + 1, key="traffic_share")
        held = [TrafficQuery(q.query_id, q.query) for q in spare]
    if config.data.dev:
        dev_path = folder / config.data.dev
        dev = read_judgments(dev_path, items, k)
        check_disjoint(train, dev, where=str(dev_path))
    else:
        train, dev = hold_out(train, config.data.dev_share, config.seed)
    new, ood_dev = (read_judgments(folder / name, items, k) if name else [] for name in _more(config))
    pool = _read_pool(folder / config.distill.pool, items) if config.distill.pool else []
    for part, name in ((new, config.data.new), (ood_dev, config.data.ood_dev)):
        check_disjoint(dev, part, where=str(folder / name))
    check_disjoint([*train, *new], ood_dev, where=str(folder / config.data.ood_dev))
    train, dev, new, ood_dev = (
        [_within_cap(q, tokenizer, config.model.query_cap) for q in part] for part in (train, dev, new, ood_dev)
    )
    held, pool = ([_within_cap(q, tokenizer, config.model.query_cap) for q in part] for part in (held, pool))
    _check_learnable(train, where=str(folder / config.data.judgments))
    used = [*train, *dev, *new, *ood_dev, *(JudgedQuery(q.query_id, q.query, q.item_ids, ()) for q in pool)]
    traffic, familiar = calibration_pairs(held, used, items, depth=config.ood.depth)
    return RunData(items, train, dev, traffic, familiar, new, ood_dev, pool)


def _more(config: Config) -> tuple[str, str]:
    return config.data.new, config.data.ood_dev


def _read_pool(path: Path, items: dict[str, Item]) -> list[TrafficQuery]:
    """Queries with items for a teacher to score."""
    pool = read_traffic(path, items)
    for query in pool:
        if not query.item_ids:
            raise InputError(f"query {query.query!r} names no items", where=str(path),
                             todo='give it "items": the ids that the teacher shall score')  # fmt: skip
    if not pool:
        raise InputError("there is no query in it", where=str(path), todo="write one JSON object a line")
    return pool


def _within_cap(query: Query, tokenizer: Tokenizer, cap: int) -> Query:
    """Cut a query to its cap.

    At serving the tokenizer's own truncation does it, and takes from whichever half is longer: a query over
    the cap costs a full item some of its last tokens there.
    """
    return dataclasses.replace(query, query=cut_to_tokens(query.query, tokenizer, cap))


def _check_learnable(train: Sequence[JudgedQuery], *, where: str) -> None:
    if not any(len(set(query.grades)) > 1 for query in train):
        raise InputError(
            "no query has items of two grades", where=where, todo="judge good and bad items of the same query"
        )
