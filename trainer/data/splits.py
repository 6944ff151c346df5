"""Held-out queries for early stopping and calibration, and pairs for calibrating the OOD score."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import InputError
from darl_opensearch.io.digest import hash_int
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.records.traffic import TrafficQuery
from darl_opensearch.text import same_text

MOST_SET_ASIDE = 10  # at most one judged item in this many is left out of training for the OOD calibration


def hold_out(
    queries: Sequence[JudgedQuery], share: float, seed: int, *, key: str = "dev_share", most: int | None = None
) -> tuple[list[JudgedQuery], list[JudgedQuery]]:
    """Hold out a share of the queries; queries with the same text stay together.

    :param key: configuration key to name in errors.
    :param most: maximum number of held-out texts; None: no maximum.
    :return: remaining and held-out queries, in their order.
    :raises InputError: if either part would be empty.
    """
    texts = list(dict.fromkeys(same_text(q.query) for q in queries))
    held_out = {texts[i] for i in draw_held_out(len(texts), share, seed, key=key, most=most)}
    parts: tuple[list[JudgedQuery], list[JudgedQuery]] = ([], [])
    for query in queries:
        parts[same_text(query.query) in held_out].append(query)
    return parts


def draw_held_out(count: int, share: float, seed: int, *, key: str, most: int | None = None) -> list[int]:
    """Sample the distinct query texts to hold out.

    :return: their numbers, counted from 0 in order of first appearance.
    :raises InputError: if either part would be empty.
    """
    n = round(count * share)
    if not 0 < n < count:
        raise InputError(f"{count} judged queries cannot be split", where=f"[data] {key}", todo="label more queries")
    return random.Random(seed).sample(range(count), n if most is None else min(n, most))


Retrieved = list[tuple[TrafficQuery, tuple[str, ...]]]


def retrieve_for_traffic(
    traffic: Sequence[TrafficQuery], texts: Container[str], used: Container[str], items: Mapping[str, Item], *,
    depth: int, index: Callable[[Iterator[tuple[str, str]]], Bm25Index],
) -> tuple[Retrieved, Retrieved]:  # fmt: skip
    """Split the items retrieved for held-out queries into unjudged and judged ones.

    Pairs with unjudged items share neither query nor item with the judged pairs, so the OOD score is calibrated on
    them. For traffic without items, BM25 over all items stands in for the first stage.

    :param texts: texts of the judged queries, in the form of :func:`darl_opensearch.text.same_text`.
    :param used: ids of the judged items.
    :param depth: items to retrieve for a query without items.
    :param index: builds the BM25 index from ids and texts.
    :return: queries with their unjudged items, and with their judged ones; without queries that have none.
    """
    bm25: Bm25Index | None = None
    parts: tuple[Retrieved, Retrieved] = ([], [])
    for query in traffic:
        if same_text(query.query) in texts:
            continue
        ids: Sequence[str] = query.item_ids
        if not ids:
            bm25 = bm25 or index((item.item_id, item.text) for item in items.values())
            ids = [hit.item_id for hit in bm25.search(query.query, depth)]
        for judged in (False, True):
            if part_ids := tuple(item_id for item_id in ids if (item_id in used) == judged):
                parts[judged].append((query, part_ids))
    return parts


def choose_calibration_items(familiar: Retrieved, used: Collection[str], *, pairs: int) -> frozenset[str]:
    """Choose judged items to leave out of training, for held-out queries that retrieve hardly any unjudged ones.

    The OOD score is calibrated on pairs that share no item with the training data. If nearly the whole catalogue is
    judged, items are left out until there are enough such pairs, or a tenth of the judged items is left out. Their
    order is that of their ids' digests, so that the next version leaves out mostly the same items.

    :param familiar: held-out queries with the judged items that they retrieve.
    :param used: ids of the judged items.
    :param pairs: approximate number of calibration pairs needed.
    """
    retrieved_by = Counter(item_id for _, ids in familiar for item_id in ids)
    chosen: set[str] = set()
    pair_count = 0
    for item_id in sorted(retrieved_by, key=hash_int):
        if pair_count >= pairs or len(chosen) + 1 > len(used) // MOST_SET_ASIDE:
            break
        chosen.add(item_id)
        pair_count += retrieved_by[item_id]
    return frozenset(chosen)


def leave_out_items(queries: Sequence[JudgedQuery], dropped: Container[str]) -> list[JudgedQuery]:
    """Drop the pairs of some items, and queries that have no pairs left."""
    remaining = []
    for query in queries:
        places = [n for n, item_id in enumerate(query.item_ids) if item_id not in dropped]
        if len(places) == len(query.item_ids):
            remaining.append(query)
        elif places:
            ids, grades = tuple(query.item_ids[n] for n in places), tuple(query.grades[n] for n in places)
            remaining.append(dataclasses.replace(query, item_ids=ids, grades=grades))
    return remaining
