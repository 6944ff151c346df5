"""Models: a bundle's graph as it will serve, or a finished run in torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import UsageError, load
from darl_opensearch.records.items import Item
from darl_opensearch.scores import GradeScale, is_ood, score_chunks
from darl_opensearch.scoring import Provider, Scorer
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.encode import CappedTokenizer, pad_batch
from darl_opensearch.scoring.scorer import CPU_TOKEN_BUDGET
from darl_opensearch.states import StateStore
from darl_opensearch.text import ItemRenderer
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.systems.base import RatingRequest, Ratings

BLOCK = 64  # queries per call: their pairs share batches
Catalogue = Callable[[ItemRenderer], Mapping[str, Item]]


@dataclass(frozen=True)
class ModelInfo:
    """A model's identity and grades.

    :param alpha: false-alarm rate that its OOD score is calibrated for.
    """

    path: Path
    name: str
    version: str
    scale: GradeScale
    alpha: float


@dataclass(frozen=True)
class BundleSystem:
    """A bundle's graph, as it will serve.

    :param items: the catalogue, rendered with its template.
    :param score_cache: scores to reuse and extend; None: no caching.
    """

    name: str
    model: ModelInfo
    bundle: Bundle
    scorer: Scorer
    items: Mapping[str, Item]
    score_cache: ScoreCache | None = None
    grades: bool = True

    def about(self) -> dict[str, Any]:
        """Describe the system."""
        graph = self.scorer.graph
        return {
            "kind": "bundle", "path": str(self.model.path), "model": self.model.name, "version": self.model.version,
            "graph": graph, "sha256": self.bundle.digests[graph], "provider": self.scorer.provider,
            "alpha": self.model.alpha,
        }  # fmt: skip

    def rate(self, requests: Sequence[RatingRequest]) -> Iterator[Ratings]:
        """Score items with the graph."""
        score_many = self.scorer.score_many if self.score_cache is None else self.score_cache.wrap(self.scorer)
        for block in _blocks(requests):
            texts = [(request.query, [self.items[item_id].text for item_id in request.item_ids]) for request in block]
            for scores in score_many(texts):
                yield _of_rows(scores.data, self.model)


@dataclass(frozen=True)
class RunSystem:
    """A finished training run, scored by torch.

    :param rows: scores pairs of query and item text, ``[n, 3 + k]``.
    """

    name: str
    model: ModelInfo
    rows: Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]
    items: Mapping[str, Item]
    grades: bool = True

    def about(self) -> dict[str, Any]:
        """Describe the system."""
        model = self.model
        return {
            "kind": "run", "path": str(model.path), "model": model.name, "version": model.version,
            "alpha": model.alpha,
        }  # fmt: skip

    def rate(self, requests: Sequence[RatingRequest]) -> Iterator[Ratings]:
        """Score items with torch."""
        for request in requests:
            rows = self.rows([(request.query, self.items[item_id].text) for item_id in request.item_ids])
            yield _of_rows(rows, self.model)


def open_bundle(
    path: Path, catalogue: Catalogue, *, int8: bool, provider: Provider, threads: int | None,
    score_cache: ScoreCache | None = None,
) -> BundleSystem:  # fmt: skip
    """Open a bundle.

    :param catalogue: reads the items with the model's renderer.
    :return: the system; close its scorer.
    """
    bundle = Bundle.open(path)
    card = bundle.card
    model = ModelInfo(path, card.name, card.version, card.scale, card.ood.alpha)
    items = catalogue(bundle.renderer)
    # Judged queries share items: each is encoded once. In memory only: a judged set is small.
    scorer = Scorer.open(bundle, int8=int8, provider=provider, threads=threads, states=StateStore(None))
    name = f"{card.name}-{card.version}{'-int8' if int8 else ''}"
    return BundleSystem(name, model, bundle, scorer, items, score_cache)


def open_run(path: Path, catalogue: Catalogue) -> RunSystem:
    """Load a finished run."""
    torch = load("torch", "train")

    from trainer.export.graph import ContractModule
    from trainer.run_folder import load_run

    trained = load_run(path)
    config, tokenizer = trained.config, trained.model.tokenizer()
    renderer = ItemRenderer(config.template.item_template, tokenizer, config.model.item_cap)
    scale = config.grades.scale
    model = ModelInfo(path, config.model.name, config.model.version, scale, config.ood.alpha)
    module = ContractModule(trained).eval()
    capped = CappedTokenizer(tokenizer, config.model.query_cap, config.model.item_cap)

    def score(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        sequences = [capped.pairs(query, [text])[0] for query, text in pairs]
        out = np.empty((len(sequences), 3 + scale.k), dtype=np.float32)
        with torch.no_grad():
            for batch in plan_batches([len(s.ids) for s in sequences], token_budget=CPU_TOKEN_BUDGET):
                inputs = pad_batch([sequences[i] for i in batch])
                out[batch] = module(*(torch.from_numpy(inputs[key]) for key in inputs))["scores"].numpy()
        return out

    def rows(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return score_chunks(score, pairs, renderer.chunks)

    return RunSystem(f"{model.name}-{model.version}-torch", model, rows, catalogue(renderer))


def check_scales(systems: Sequence[BundleSystem | RunSystem]) -> None:
    """Refuse models whose grades differ in number or gain."""
    first = systems[0]
    for other in systems[1:]:
        if other.model.scale.gains != first.model.scale.gains:
            raise UsageError(
                f"gains {list(other.model.scale.gains)} differ from {list(first.model.scale.gains)} of {first.name}",
                where=os.fspath(other.model.path), todo="evaluate models with different grades separately",
            )  # fmt: skip


def _of_rows(rows: NDArray[np.float32], model: ModelInfo) -> Ratings:
    data = rows.astype(np.float64)
    k = model.scale.k
    return Ratings(data[:, 0], data[:, 1 : 1 + k], data[:, 2 + k], is_ood(data[:, 1 + k], model.alpha))


def _blocks(requests: Sequence[RatingRequest]) -> Iterator[Sequence[RatingRequest]]:
    for start in range(0, len(requests), BLOCK):
        yield requests[start : start + BLOCK]
