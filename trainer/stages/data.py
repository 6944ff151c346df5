"""Everything a run reads, split and digested once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import InputError
from darl_opensearch.text import ItemRenderer, cut_to_tokens, same_text
from trainer.config import Config, Data
from trainer.data import disk
from trainer.data.disk import StoredItems, StoredQueries
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
from trainer.data.splits import Retrieved, hold_out, retrieved, set_aside, without_items
from trainer.models.base import AVERAGE, LAST, Backbone, FeatureTable
from trainer.models.device import choose, on
from trainer.ood.calibration import least_pairs
from trainer.stages import distributed

Query = TypeVar("Query", JudgedQuery, TrafficQuery)

STORE_ABOVE = 512 << 20  # bytes of items and judgments that are read on demand rather than kept in memory
GZIP_RATIO = 6  # what a packed byte of JSON counts for
MADE_PAIRS = 10  # times 1 / alpha: calibration pairs that are made where the catalogue is judged all over


@dataclass(frozen=True)
class Pairs:
    """Judged or unjudged pairs as rows over distinct texts.

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

        :return: ``[n]`` float in [0, 1].
        """
        table = torch.tensor(gains, dtype=torch.float32)
        return table[self.grades] / table[-1]

    def numpy(self, gains: Sequence[float]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """What the metrics take.

        :return: grades, gains and query index, each ``[n]``.
        """
        grades = self.grades.numpy()
        return grades, np.asarray(gains)[grades], self.query_index.numpy()


class Features:
    """Features of fixed sets of pairs, encoded once while the encoder stays as it is.

    :param advance: called with the number of texts just encoded.
    :param device: where it is encoded; the features are on the CPU always.
    """

    def __init__(
        self, model: Backbone, advance: Callable[[int], object] = lambda n: None, *, device: str = "auto"
    ) -> None:
        self.model, self.advance, self.device = model, advance, choose(device)
        self._tables: dict[tuple[int, str], tuple[Pairs, FeatureTable]] = {}
        self._halves: dict[str, dict[str, Tensor]] = {}  # by layers, then by text

    def of(self, pairs: Pairs, *, layers: str = LAST) -> FeatureTable:
        """Features of some pairs.

        :param pairs: judged or not.
        :param layers: ``average``: also the averaged halves.
        :return: their features under the encoder as it is.
        """
        if (key := (id(pairs), layers)) not in self._tables:
            with on(self.model, self.device):
                table = self.model.feature_table(
                    pairs.queries, pairs.items, pairs.index, layers=layers, advance=self.advance
                )
            self._tables[key] = (pairs, table)  # the pairs are kept: their id stays theirs
            if self.model.halves == 2:
                for texts, rows in zip((pairs.queries, pairs.items), table.tables, strict=True):
                    self._halves.setdefault(LAST, {}).update(zip(texts, rows, strict=True))
        return self._tables[key][1]

    def apart(self, texts: Sequence[str], *, layers: str = LAST) -> Tensor:
        """Halves alone, each text encoded once; only of a backbone that reads query and item apart.

        :param texts: queries or items.
        :param layers: ``last`` or ``average``.
        :return: ``[n, h]`` of unit length.
        """
        known = self._halves.setdefault(layers, {})
        if fresh := [text for text in dict.fromkeys(texts) if text not in known]:
            with on(self.model, self.device):
                known.update(zip(fresh, self.model.pooled(fresh, layers=layers, advance=self.advance), strict=True))
        width = int(self.model.encoder.config.hidden_size)
        return torch.stack([known[text] for text in texts]) if texts else torch.zeros(0, width)

    def tables(self, pairs: Pairs, *, layers: str = LAST) -> tuple[tuple[Tensor, ...], Tensor]:
        """Distinct halves of some pairs, for what does not read how their tokens meet.

        :param pairs: judged or not.
        :param layers: ``last`` or ``average``.
        :return: for each half ``[m, h]`` the distinct ones, and ``[n, halves]`` each pair's row in each.
        """
        if self.model.halves == 2:
            both = self.apart([*pairs.queries, *pairs.items], layers=layers)  # in one go: the model is moved once
            return (both[: len(pairs.queries)], both[len(pairs.queries) :]), pairs.index
        table = self.of(pairs, layers=layers)
        return (table.averaged if layers == AVERAGE else table.tables), table.rows

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

    :param items: the catalogue; read on demand where it is on disk.
    :param train: training queries; read on demand where they are on disk.
    :param dev: queries for early stopping, rollback and grade calibration.
    :param traffic: held-out queries with the retrieved items that nothing was trained on.
    :param familiar: the same queries with the retrieved items that were.
    :param new: newly selected queries, for the augmented stage.
    :param ood_dev: queries of traffic unlike the training set's, which choose in the augmented stages.
    :param pool: queries with items that nobody judged, for a teacher to score.
    :param sample: training queries in a number that memory holds, for what looks at all of them at once; None: all.
    :param set_aside: judged items that nothing is trained on, so that there is something to calibrate on.
    """

    items: Mapping[str, Item]
    train: Sequence[JudgedQuery]
    dev: list[JudgedQuery]
    traffic: list[tuple[TrafficQuery, tuple[str, ...]]]
    familiar: list[tuple[TrafficQuery, tuple[str, ...]]] = field(default_factory=list)
    new: list[JudgedQuery] = field(default_factory=list)
    ood_dev: list[JudgedQuery] = field(default_factory=list)
    pool: list[TrafficQuery] = field(default_factory=list)
    sample: Sequence[JudgedQuery] | None = None
    set_aside: frozenset[str] = frozenset()

    @property
    def sampled(self) -> Sequence[JudgedQuery]:
        """Training queries in a number that memory holds: all, or a random sample."""
        return self.train if self.sample is None else self.sample

    @property
    def in_memory(self) -> Sequence[JudgedQuery]:
        """Training queries: all where they are in memory, else a random sample."""
        return self.train if isinstance(self.train, list) else self.sampled

    @property
    def learnt(self) -> list[JudgedQuery]:
        """Judged queries that the detector calls known, those of training sampled: all but the OOD dev queries."""
        return [*self.sampled, *self.dev, *self.new]

    def judged(self, queries: Sequence[JudgedQuery]) -> Pairs:
        """Lay judged queries out as pairs."""
        return self._pairs([(q.query, q.item_ids) for q in queries], [g for q in queries for g in q.grades])

    def unjudged(self, queries: Sequence[tuple[TrafficQuery, tuple[str, ...]]]) -> Pairs:
        """Lay traffic out as pairs.

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
        """Counts and digests, for the run and the card."""
        told: dict[str, Any] = {
            "items": {"count": len(self.items), "sha256": _sha256_of(self.items)},
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
        told |= {name: _count(part) for name, part in optional.items() if part}
        return told | ({"set_aside": sorted(self.set_aside)} if self.set_aside else {})


def _sha256_of(items: Mapping[str, Item]) -> str:
    return items.facts["items_sha256"] if isinstance(items, StoredItems) else digest(items.values())


def _count(queries: Sequence[JudgedQuery] | Sequence[TrafficQuery]) -> dict[str, Any]:
    if isinstance(queries, StoredQueries):  # counted when it was stored
        facts = queries.facts
        return {"queries": len(queries), "pairs": facts["pairs"], "sha256": facts["train_sha256"]}
    return {"queries": len(queries), "pairs": sum(len(q.item_ids) for q in queries), "sha256": digest(queries)}


def read_data(config: Config, folder: Path, tokenizer: Tokenizer, *, store: Path | None = None) -> RunData:
    """Read and split everything a configuration names.

    :param folder: what its paths are relative to.
    :param tokenizer: the base model's, for the item cap.
    :param store: where items and judgments are kept when they do not belong into memory; None: in a temporary file.
    :raises InputError: naming file, line and field of what is wrong.
    """
    k, data, cap = config.grades.scale.k, config.data, config.model.query_cap
    read = _on_disk if keeps_on_disk(config.data, folder) else _in_memory
    judged = read(config, folder, tokenizer, store)
    items, held, dev = judged.items, judged.spare, judged.dev
    if data.traffic:
        held = read_traffic(folder / data.traffic, items)
    if data.dev:
        dev = read_judgments(folder / data.dev, items, k)
        check_disjoint(judged.texts, dev, where=str(folder / data.dev))
    new, ood_dev = (read_judgments(folder / name, items, k) if name else [] for name in _more(config))
    pool = _read_pool(folder / config.distill.pool, items) if config.distill.pool else []
    for part, name in ((new, data.new), (ood_dev, data.ood_dev)):
        check_disjoint(dev, part, where=str(folder / name))
    for known in (judged.texts, new):
        check_disjoint(known, ood_dev, where=str(folder / data.ood_dev))
    dev, new, ood_dev = ([_within_cap(q, tokenizer, cap) for q in part] for part in (dev, new, ood_dev))
    held, pool = ([_within_cap(q, tokenizer, cap) for q in part] for part in (held, pool))
    if not judged.learnable:
        raise InputError(
            "no query has items of two grades", where=str(folder / data.judgments),
            todo="judge good and bad items of the same query",
        )  # fmt: skip
    more: list[JudgedQuery | TrafficQuery] = [*dev, *new, *ood_dev, *pool]
    texts = _AnyOf(judged.texts, {same_text(q.query) for q in more})
    used = {item_id for q in more for item_id in q.item_ids}

    def calibrating(trained: Container[str]) -> tuple[Retrieved, Retrieved]:
        index = partial(Bm25Index, on_disk=isinstance(items, StoredItems))
        return retrieved(held, texts, trained, items, depth=config.ood.depth, index=index)

    traffic, familiar = calibrating(_AnyOf(judged.used, used))
    sample = sampled(judged.train, data.sample_pairs, config.seed)
    found = RunData(items, judged.train, dev, traffic, familiar, new, ood_dev, pool, sample)
    if isinstance(judged.train, list) and _judged_all_over(found, config.ood.alpha):
        return _with_items_set_aside(found, used, calibrating, config)
    return found


def _judged_all_over(data: RunData, alpha: float) -> bool:
    """Tell whether what held-out queries retrieve is nearly all judged, and too little is left to calibrate on."""
    unseen, seen = _pairs(data.traffic), _pairs(data.familiar)
    return unseen < least_pairs(alpha) or (unseen < MADE_PAIRS / alpha and 10 * unseen < unseen + seen)


def _with_items_set_aside(
    data: RunData, used: set[str], calibrating: Callable[[Container[str]], tuple[Retrieved, Retrieved]], config: Config
) -> RunData:
    """Leave some judged items out of everything, to calibrate on; where that does not help, all is as it was."""
    used = used | {item_id for query in data.train for item_id in query.item_ids}
    apart = set_aside(data.familiar, used, pairs=round(MADE_PAIRS / config.ood.alpha) - _pairs(data.traffic))
    traffic, familiar = calibrating(used - apart)
    train, dev, new, ood_dev = (without_items(q, apart) for q in (data.train, data.dev, data.new, data.ood_dev))
    if _pairs(traffic) < least_pairs(config.ood.alpha) or not dev or not _learnable(train):
        return data
    pool = [dataclasses.replace(q, item_ids=tuple(i for i in q.item_ids if i not in apart)) for q in data.pool]
    sample = sampled(train, config.data.sample_pairs, config.seed)
    pool = [query for query in pool if query.item_ids]
    return RunData(data.items, train, dev, traffic, familiar, new, ood_dev, pool, sample, apart)


def _pairs(queries: Retrieved) -> int:
    return sum(len(ids) for _, ids in queries)


def keeps_on_disk(data: Data, folder: Path) -> bool:
    """Tell whether items and judgments are too large for the memory, or are to be treated so.

    :param data: table ``[data]``.
    :param folder: what its paths are relative to.
    :return: true where they are read on demand.
    """
    if data.store != "auto":
        return data.store == "disk"
    size = 0
    for name in (data.items, data.judgments):
        path = folder / name
        if path.is_file():  # else reading it says so
            size += path.stat().st_size * (GZIP_RATIO if path.suffix == ".gz" else 1)
    return size > STORE_ABOVE


def sampled(queries: Sequence[JudgedQuery], pairs: int, seed: int) -> list[JudgedQuery]:
    """Draw queries until their pairs are as many as memory is to hold.

    :param pairs: most pairs; one query is drawn in any case.
    :return: the queries, in their order; where all fit, all of them.
    """
    chosen: dict[int, JudgedQuery] = {}
    left = pairs
    for place in np.random.default_rng([seed, 1]).permutation(len(queries)).tolist():
        query = queries[place]
        left -= len(query.grades)
        if left < 0 and chosen:
            break
        chosen[place] = query
    return [chosen[place] for place in sorted(chosen)]


@dataclass(frozen=True)
class _Judged:
    """Items and judged queries, wherever they are kept.

    :param train: training queries, cut to the cap.
    :param dev: queries held out for dev; none where there is a file of them.
    :param spare: queries held out for traffic; none where there is a file of them.
    :param texts: texts of the training queries, as given and as cut.
    :param used: ids of the items that training queries are judged with.
    :param learnable: whether some training query has items of two grades.
    """

    items: Mapping[str, Item]
    train: Sequence[JudgedQuery]
    dev: list[JudgedQuery]
    spare: list[TrafficQuery]
    texts: Container[str]
    used: Container[str]
    learnable: bool


def _splits(config: Config) -> list[tuple[str, float, int, str]]:
    """Parts to hold out, in order: name, share, seed and key."""
    data = config.data
    parts = [] if data.traffic else [(disk.SPARE, data.traffic_share, config.seed + 1, "traffic_share")]
    return parts if data.dev else [*parts, (disk.DEV, data.dev_share, config.seed, "dev_share")]


def _in_memory(config: Config, folder: Path, tokenizer: Tokenizer, store: Path | None) -> _Judged:
    renderer = ItemRenderer(config.template.item_template, tokenizer, config.model.item_cap)
    items = read_items(folder / config.data.items, renderer)
    train = read_judgments(folder / config.data.judgments, items, config.grades.scale.k)
    held: dict[str, list[JudgedQuery]] = {disk.SPARE: [], disk.DEV: []}
    for part, share, seed, key in _splits(config):
        train, held[part] = hold_out(train, share, seed, key=key, most=config.data.held_out_queries)
    texts = {same_text(q.query) for q in train}
    train = [_within_cap(q, tokenizer, config.model.query_cap) for q in train]
    texts |= {same_text(q.query) for q in train}
    used = {item_id for query in train for item_id in query.item_ids}
    return _Judged(items, train, held[disk.DEV], _as_traffic(held[disk.SPARE]), texts, used, _learnable(train))


def _on_disk(config: Config, folder: Path, tokenizer: Tokenizer, store: Path | None) -> _Judged:
    data, model = config.data, config.model
    files = [folder / data.items, folder / data.judgments]

    def build(builder: disk.Builder) -> None:
        builder.add_items(files[0], ItemRenderer(config.template.item_template, tokenizer, model.item_cap))
        builder.add_judgments(
            files[1], config.grades.scale.k, lambda text: cut_to_tokens(text, tokenizer, model.query_cap)
        )
        for part, share, seed, key in _splits(config):
            builder.hold_out(part, share, seed, key=key, most=data.held_out_queries)

    settings = {
        "template": dataclasses.asdict(config.template), "caps": [model.query_cap, model.item_cap],
        "k": config.grades.scale.k, "splits": _splits(config), "most": data.held_out_queries,
        "tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
    }  # fmt: skip
    key = disk.key_of(files, settings)
    if store is None:  # each process has its own
        kept = disk.open_store(None, key, build)
    else:
        kept = distributed.main_first(lambda: disk.open_store(store, key, build))
    return _Judged(
        kept.items, kept.train, kept.part(disk.DEV), _as_traffic(kept.part(disk.SPARE)), kept.texts(), kept.used(),
        kept.facts["learnable"],
    )  # fmt: skip


def _learnable(queries: Sequence[JudgedQuery]) -> bool:
    return any(len(set(query.grades)) > 1 for query in queries)


def _as_traffic(queries: Sequence[JudgedQuery]) -> list[TrafficQuery]:
    return [TrafficQuery(q.query_id, q.query, slice=q.slice) for q in queries]


class _AnyOf:
    """What any of some containers holds."""

    def __init__(self, *parts: Container[str]) -> None:
        self.parts = parts

    def __contains__(self, value: object) -> bool:
        return any(value in part for part in self.parts)


def _more(config: Config) -> tuple[str, str]:
    return config.data.new, config.data.ood_dev


def _read_pool(path: Path, items: Mapping[str, Item]) -> list[TrafficQuery]:
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
