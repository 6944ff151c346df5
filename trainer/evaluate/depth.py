"""Rerank-depth sweep: the gain from reranking more of the first stage's list."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import InputError
from darl_opensearch.records.items import Item
from darl_opensearch.records.values import like_known
from darl_opensearch.stats.bootstrap import Floats
from trainer.evaluate.parts import JudgedPart
from trainer.evaluate.trec import match_ids, read_run

DEPTHS = (0, 5, 10, 20, 50, 100)
Candidates = dict[str, list[str]]  # items by query id, in the first stage's order


def retrieve(parts: Sequence[JudgedPart], index: Bm25Index, size: int) -> dict[str, Candidates]:
    """Retrieve candidates with BM25, by part."""
    return {
        part.name: {q.query_id: [hit.item_id for hit in index.search(q.query, size)] for q in part.queries}
        for part in parts
    }


def read_first_stage(
    parts: Sequence[JudgedPart], path: Path, items: Mapping[str, Item], size: int, blank: Collection[str] = ()
) -> dict[str, Candidates]:
    """Read a first stage's ranking from a TREC run.

    :param blank: ids of items without text, which are left out.
    :return: candidates by part; empty for queries missing from the run.
    :raises InputError: for an unknown item, or a run without any query of a part.
    """
    query_ids = {query.query_id for part in parts for query in part.queries}
    run = {
        query_id: [item_id for item_id, _ in ranked if item_id not in blank][:size]
        for query_id, ranked in match_ids(read_run(path), query_ids, {*items, *blank}).items()
    }
    by_part = {part.name: {q.query_id: run.get(q.query_id, []) for q in part.queries} for part in parts}
    for candidates in by_part.values():
        for query_id, ids in candidates.items():
            if missing := [item_id for item_id in ids if item_id not in items]:
                raise InputError(
                    f"item {missing[0]!r}, ranked for query {query_id!r}, is not in the items", where=str(path),
                    todo=like_known(missing[0], items) or "add it to the items, or drop it from the run",
                )  # fmt: skip
    for name, candidates in by_part.items():
        if not any(candidates.values()):
            raise InputError(
                f"the run has none of the queries of part {name!r}", where=str(path),
                todo=like_known(next(iter(run)), query_ids) or "use a run with the judgments' query ids",
            )  # fmt: skip
    return by_part


def rerank(candidates: Sequence[str], score: Floats, depth: int) -> list[str]:
    """Sort the first ``depth`` candidates by score; the others follow in their order.

    :param candidates: in the first stage's order, which breaks ties.
    """
    order = np.argsort(-score[:depth], kind="stable")
    return [*(candidates[place] for place in order), *candidates[depth:]]
