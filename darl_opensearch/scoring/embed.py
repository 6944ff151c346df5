"""Features of pairs from ``features.onnx``, with the scorer's batching."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import FEATURES, Bundle
from darl_opensearch.errors import BundleError
from darl_opensearch.scoring.batching import CPU_PASS_TOKENS, plan_batches
from darl_opensearch.scoring.cores import available_cores
from darl_opensearch.scoring.encode import CappedTokenizer, TokenSequence, pad_batch
from darl_opensearch.scoring.runtime import Provider, open_session
from darl_opensearch.scoring.scorer import CPU_TOKEN_BUDGET, CUDA_TOKEN_BUDGET


class Embedder:
    """Computes pairs' features, for drift tests and the selection of samples.

    :param provider: where the graph runs, without falling back to the CPU.
    :param threads: parallel batches on the CPU; by default one per core.
    """

    def __init__(self, bundle: Bundle, *, provider: Provider = "cpu", threads: int | None = None) -> None:
        self._path = bundle.file(FEATURES)
        self._session = open_session(self._path, provider, require_provider=True).session
        card = bundle.card
        self._tokenizer = CappedTokenizer(bundle.tokenizer, card.query_cap, card.item_cap)
        self._budget = CUDA_TOKEN_BUDGET if provider == "cuda" else CPU_TOKEN_BUDGET
        self._pass_tokens = None if provider == "cuda" else CPU_PASS_TOKENS
        count = 1 if provider == "cuda" else threads or available_cores()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="darl-embed")

    def embed(self, requests: Sequence[tuple[str, Sequence[str]]]) -> NDArray[np.float32]:
        """Embed pairs.

        :return: ``[n, h]`` float32, one row per pair, in order; ``[0, 0]`` without pairs.
        :raises BundleError: unless the graph returns a finite row for each pair.
        """
        sequences = [pair for query, texts in requests for pair in self._tokenizer.pairs(query, texts)]
        batches = plan_batches(
            [len(s.ids) for s in sequences], token_budget=self._budget, pass_tokens=self._pass_tokens
        )
        parts = list(self._pool.map(lambda batch: self._run([sequences[i] for i in batch]), batches))
        if not parts:
            return np.empty((0, 0), dtype=np.float32)
        rows = np.empty((len(sequences), parts[0].shape[1]), dtype=np.float32)
        for batch, batch_rows in zip(batches, parts, strict=True):
            rows[batch] = batch_rows
        return rows

    def _run(self, sequences: list[TokenSequence]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._session.run(None, pad_batch(sequences))[0]
        if rows.ndim != 2 or len(rows) != len(sequences) or not np.isfinite(rows).all():
            raise BundleError(
                f"the graph answers {len(sequences)} pairs with shape {rows.shape}, not with a finite row each",
                where=str(self._path),
                todo="run darl check on the bundle",
            )
        return rows

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
