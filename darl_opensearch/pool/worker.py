"""Computing shards, for every engine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from darl_opensearch.bundle import CARD, Bundle
from darl_opensearch.errors import BundleError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.pool.formats import NPY, ScoreFormat, encode_features, encode_scores
from darl_opensearch.pool.pairs import Shard
from darl_opensearch.scores import Scores
from darl_opensearch.scoring import Provider, Scorer
from darl_opensearch.scoring.embed import Embedder

SCORES, FEATURES = "scores", "features"


@dataclass(frozen=True)
class PoolJob:
    """What to compute. Small, because it is sent to every worker.

    :param bundle: the model's folder, readable at this path on every machine.
    :param digest: SHA-256 of its card.
    :param scores: format of the scores; None: no scores.
    :param provider: where graphs run, without falling back to the CPU.
    :param threads: parallel batches on the CPU; None: one per core.
    :param int8: score with the quantised graph. Features always come from ``features.onnx``, which is fp32.
    """

    bundle: Path
    digest: str
    scores: ScoreFormat | None
    features: bool
    provider: Provider = "cpu"
    threads: int | None = None
    int8: bool = False

    @property
    def parts(self) -> dict[str, str]:
        """File suffixes by part of a shard."""
        scores = {SCORES: f".{self.scores}"} if self.scores else {}
        return scores | ({FEATURES: NPY} if self.features else {})


def open_same_bundle(path: Path, digest: str) -> Bundle:
    """Open a worker's bundle.

    :param digest: SHA-256 of the card of the bundle that the work is for.
    :raises BundleError: if this machine has another one at that path.
    """
    bundle = Bundle.open(path)
    if (here := digest_file(path / CARD)) != digest:
        raise BundleError(
            f"this machine has another bundle (its card has SHA-256 {here[:12]}…, not {digest[:12]}…)",
            where=str(path), todo="put the same bundle at this path on every machine",
        )  # fmt: skip
    return bundle


class ShardScorer:
    """Computes the content of shards' files; opens the bundle once.

    :raises BundleError: if this is not the job's bundle, or it cannot be used.
    """

    def __init__(self, job: PoolJob) -> None:
        self._bundle = open_same_bundle(job.bundle, job.digest)
        self._format = job.scores
        self._scorer: Scorer | None = None
        self._embedder: Embedder | None = None
        with contextlib.ExitStack() as stack:
            if job.scores:
                scorer = Scorer.open(
                    self._bundle, provider=job.provider, threads=job.threads, int8=job.int8,
                    require_provider=job.provider == "cuda",
                )  # fmt: skip
                self._scorer = stack.enter_context(scorer)
                scorer.warm_up()
            if job.features:
                embedder = Embedder(self._bundle, provider=job.provider, threads=job.threads)
                self._embedder = stack.enter_context(embedder)
            self._open = stack.pop_all()

    def __call__(self, shard: Shard) -> dict[str, bytes]:
        """Compute the content of a shard's files, by part; its texts must have been looked up."""
        requests = self._requests(shard)
        files = {}
        if self._scorer and self._format:
            parts = self._scorer.score_many(requests)
            scores = Scores(np.concatenate([part.data for part in parts]), parts[0].alpha)
            files[SCORES] = encode_scores(shard, scores, self._format)
        if self._embedder:
            files[FEATURES] = encode_features(self._embedder.embed(requests))
        return files

    def close(self) -> None:
        """Stop the threads."""
        self._open.close()

    def _requests(self, shard: Shard) -> list[tuple[str, list[str]]]:
        """Group consecutive pairs by query, and cut texts as ``darl index`` does.

        So an item has the same score by its id, by its raw text, and by its text in the index.
        """
        return [
            (query, [self._bundle.renderer.cut(pair.text or "") for pair in pairs])
            for query, pairs in groupby(shard.pairs, key=lambda pair: pair.query)
        ]
