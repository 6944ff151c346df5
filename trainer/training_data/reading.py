"""Reads and splits the data that a configuration names."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import InputError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery, check_disjoint, read_judgments
from darl_opensearch.records.traffic import TrafficQuery, read_traffic
from darl_opensearch.text import ItemRenderer, cut_to_tokens, same_text
from trainer.config import Config
from trainer.data.splits import Retrieved, retrieve_for_traffic
from trainer.training_data.calibration_set import is_judged_all_over, set_items_aside
from trainer.training_data.chunked import FirstChunks
from trainer.training_data.judged import read_judged
from trainer.training_data.run_data import RunData, sample_queries

Query = TypeVar("Query", JudgedQuery, TrafficQuery)


def read_data(config: Config, folder: Path, tokenizer: Tokenizer, *, store: Path | None = None) -> RunData:
    """Read and split the data that a configuration names.

    :param folder: folder that its paths are relative to.
    :param tokenizer: the base model's tokenizer, for the caps.
    :param store: file for items and judgments that exceed memory; None: a temporary file.
    :raises InputError: naming file, line and field.
    """
    k, data, cap = config.grades.scale.k, config.data, config.model.query_cap
    judged = read_judged(config, folder, tokenizer, store)
    items, held_out, dev, blank = judged.items, judged.spare, judged.dev, judged.blank
    if data.traffic:
        held_out = read_traffic(folder / data.traffic, items, blank)
    if data.dev:
        dev = read_judgments(folder / data.dev, items, k, blank)
        check_disjoint(judged.texts, dev, where=str(folder / data.dev))
    new, ood_dev = (read_judgments(folder / name, items, k, blank) if name else [] for name in (data.new, data.ood_dev))
    pool = _read_pool(folder / config.distill.pool, items, blank) if config.distill.pool else []
    for part, name in ((new, data.new), (ood_dev, data.ood_dev)):
        check_disjoint(dev, part, where=str(folder / name))
    for trained in (judged.texts, new):
        check_disjoint(trained, ood_dev, where=str(folder / data.ood_dev))
    dev, new, ood_dev = ([_within_cap(q, tokenizer, cap) for q in part] for part in (dev, new, ood_dev))
    held_out, pool = ([_within_cap(q, tokenizer, cap) for q in part] for part in (held_out, pool))
    if not judged.learnable:
        raise InputError(
            "no query has items of two grades", where=str(folder / data.judgments),
            todo="judge good and bad items of the same query",
        )  # fmt: skip
    others: list[JudgedQuery | TrafficQuery] = [*dev, *new, *ood_dev, *pool]
    texts = _AnyOf(judged.texts, {same_text(q.query) for q in others})
    used = {item_id for q in others for item_id in q.item_ids}

    def retrieve(trained: Container[str]) -> tuple[Retrieved, Retrieved]:
        index = partial(Bm25Index, on_disk=judged.stored is not None)
        return retrieve_for_traffic(held_out, texts, trained, items, depth=config.ood.depth, index=index)

    traffic, familiar = retrieve(_AnyOf(judged.used, used))
    sample = sample_queries(judged.train, data.sample_pairs, config.seed)
    renderer = ItemRenderer(config.template.item_template, tokenizer, config.model.item_cap)
    learnt = FirstChunks(items, renderer) if config.template.chunks > 1 else items
    run_data = RunData(
        learnt, judged.train, dev, traffic, familiar, new, ood_dev, pool, sample, stored=judged.stored, blank=blank
    )  # fmt: skip
    if judged.stored is None and is_judged_all_over(run_data, config.ood.alpha):
        return set_items_aside(run_data, used, retrieve, config)
    return run_data


class _AnyOf:
    """Union of containers."""

    def __init__(self, *parts: Container[str]) -> None:
        self.parts = parts

    def __contains__(self, value: object) -> bool:
        return any(value in part for part in self.parts)


def _read_pool(path: Path, items: Mapping[str, Item], blank: Container[str]) -> list[TrafficQuery]:
    """Read queries with items for a teacher to score."""
    pool = read_traffic(path, items, blank)
    for query in pool:
        if not query.item_ids:
            raise InputError(f"query {query.query!r} has no items", where=str(path),
                             todo='add "items": the ids for the teacher to score')  # fmt: skip
    if not pool:
        raise InputError("the file has no queries", where=str(path), todo="write one JSON object per line")
    return pool


def _within_cap(query: Query, tokenizer: Tokenizer, cap: int) -> Query:
    """Truncate a query to its cap."""
    return dataclasses.replace(query, query=cut_to_tokens(query.query, tokenizer, cap))
