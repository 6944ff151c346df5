"""Which queries train, which stop and calibrate, and which pairs calibrate the OOD score."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import InputError
from trainer.data.judgments import Item, JudgedQuery, TrafficQuery


def hold_out(queries: Sequence[JudgedQuery], share: float, seed: int) -> tuple[list[JudgedQuery], list[JudgedQuery]]:
    """Hold out a share of the queries.

    :param queries: all judged queries.
    :param share: share held out, in (0, 1).
    :param seed: of the draw.
    :return: the rest, and what is held out, in their order.
    :raises InputError: when either part would be empty.
    """
    n = round(len(queries) * share)
    if not 0 < n < len(queries):
        raise InputError(
            f"{len(queries)} judged queries cannot be split", where="[data] dev_share", todo="judge more queries"
        )
    held = set(random.Random(seed).sample(range(len(queries)), n))
    return [q for i, q in enumerate(queries) if i not in held], [q for i, q in enumerate(queries) if i in held]


def calibration_pairs(
    traffic: Sequence[TrafficQuery],
    judged: Sequence[JudgedQuery],
    items: Mapping[str, Item],
    *,
    depth: int,
    trained: bool,
) -> list[tuple[TrafficQuery, tuple[str, ...]]]:
    """What the pipeline retrieves for held-out queries.

    Either the items that were trained on, or all others: those share neither query nor item with the judged
    pairs, so the OOD score is calibrated on them. Where the traffic names no items, BM25 over all
    items stands in for the first stage.

    :param traffic: held-out queries.
    :param judged: training and dev queries.
    :param items: the catalogue.
    :param depth: items retrieved for a query that names none.
    :param trained: whether to keep the items that were judged, rather than those that were not.
    :return: queries with the items kept, queries without any dropped.
    """
    texts = {" ".join(q.query.lower().split()) for q in judged}
    used = {item_id for query in judged for item_id in query.item_ids}
    index: Bm25Index | None = None
    pairs = []
    for query in traffic:
        if " ".join(query.query.lower().split()) in texts:
            continue
        ids: Sequence[str] = query.item_ids
        if not ids:
            index = index or Bm25Index((item.item_id, item.text) for item in items.values())
            ids = [hit.item_id for hit in index.search(query.query, depth)]
        if kept := tuple(item_id for item_id in ids if (item_id in used) == trained):
            pairs.append((query, kept))
    return pairs
