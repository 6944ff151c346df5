"""Baselines: cosine, BM25, and any TREC run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import FEATURES, Bundle
from darl_opensearch.errors import InputError
from darl_opensearch.records.items import Item
from darl_opensearch.records.values import like_known
from trainer.evaluate.systems.base import RatingRequest, Ratings
from trainer.evaluate.trec import Run, match_ids, read_run

COSINE, BM25 = "cosine", "bm25"
INT8 = "int8"  # the first model's own quantised graph


@dataclass(frozen=True)
class CosineSystem:
    """Cosine of a bundle's pooled query and item embeddings: its encoder without its head."""

    bundle: Bundle
    items: Mapping[str, Item]
    name: str = COSINE
    grades: bool = False

    def about(self) -> dict[str, Any]:
        """Describe the system."""
        return {
            "kind": COSINE, "path": str(self.bundle.path), "graph": FEATURES, "sha256": self.bundle.digests[FEATURES],
        }  # fmt: skip

    def rate(self, requests: Sequence[RatingRequest]) -> Iterator[Ratings]:
        """Score items by cosine."""
        from darl_opensearch.scoring.cores import available_cores
        from darl_opensearch.scoring.encode import CappedTokenizer, pad_batch
        from darl_opensearch.scoring.runtime import open_session

        session = open_session(self.bundle.file(FEATURES), "cpu").session
        card = self.bundle.card
        tokenizer = CappedTokenizer(self.bundle.tokenizer, card.query_cap, card.item_cap)

        def rate_query(request: RatingRequest) -> Ratings:
            pairs = tokenizer.pairs(request.query, [self.items[item_id].text for item_id in request.item_ids])
            cosines = [_cosine(session.run(None, pad_batch([pair]))[0][0]) for pair in pairs]
            return Ratings(np.array(cosines, dtype=np.float64))

        with ThreadPoolExecutor(available_cores()) as pool:
            yield from pool.map(rate_query, requests)


def _cosine(features: NDArray[np.float32]) -> float:
    query, item = np.split(features.astype(np.float64), 2)
    return float(query @ item / max(float(np.linalg.norm(query) * np.linalg.norm(item)), 1e-12))


@dataclass(frozen=True)
class Bm25System:
    """BM25 over the items, by SQLite."""

    index: Bm25Index
    size: int
    name: str = BM25
    grades: bool = False

    def about(self) -> dict[str, Any]:
        """Describe the system."""
        return {"kind": BM25}

    def rate(self, requests: Sequence[RatingRequest]) -> Iterator[Ratings]:
        """Score items; 0 without a word in common with the query."""
        for request in requests:
            scores = {hit.item_id: hit.score for hit in self.index.search(request.query, self.size)}
            yield Ratings(np.array([scores.get(item_id, 0.0) for item_id in request.item_ids]))


@dataclass(frozen=True)
class TrecSystem:
    """Another system's ranking, from a TREC run file."""

    name: str
    path: Path
    run: Run
    grades: bool = False

    def about(self) -> dict[str, Any]:
        """Describe the system."""
        return {"kind": "trec", "path": str(self.path)}

    def rate(self, requests: Sequence[RatingRequest]) -> Iterator[Ratings]:
        """Look scores up; items missing from the run come last.

        :raises InputError: for a run without any of the pairs.
        """
        any_ranked = False
        query_ids = {request.query_id for request in requests}
        item_ids = {item_id for request in requests for item_id in request.item_ids}
        run = match_ids(self.run, query_ids, item_ids)
        for request in requests:
            scores = dict(run.get(request.query_id, ()))
            any_ranked = any_ranked or any(item_id in scores for item_id in request.item_ids)
            yield Ratings(np.array([scores.get(item_id, -np.inf) for item_id in request.item_ids]))
        if not any_ranked:
            query_id, ranked = next(iter(run.items()))
            hint = like_known(query_id, query_ids) or like_known(ranked[0][0], item_ids)
            raise InputError(
                "the run has none of the judged pairs", where=str(self.path),
                todo=hint or "name a run over the same query and item ids",
            )  # fmt: skip


def open_trec(path: Path) -> TrecSystem:
    """Read a run file."""
    name = path.name.removesuffix(".trec").removesuffix(".run").removesuffix(".txt") or path.name
    return TrecSystem(name, path, read_run(path))
