"""Cache of a graph's scores, bit for bit what scoring again would give.

In a cycle, evaluation and gate score the same pairs with the same bundles, which is most of their cost. An entry holds
the rows of one call. Its key digests everything they depend on: graph, weights and tokenizer (by the digests that
opening the bundle verified), runtime, machine and version, and every query and text of the call in order. Calls are
cached whole, because batching pairs differently changes the last digits.
"""

from __future__ import annotations

import dataclasses
import io
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import TOKENIZER
from darl_opensearch.io.digest import digest_data, digest_json
from darl_opensearch.io.writing import write_file
from darl_opensearch.scores import Scores
from darl_opensearch.scoring import Scorer
from darl_opensearch.scoring.runtime import load_runtime
from darl_opensearch.version import __version__

Requests = Sequence[tuple[str, Sequence[str]]]


class ScoreCache:
    """Rows of earlier calls.

    :param rows: ``[n, 3 + k]`` float32 per call, by its key.
    """

    def __init__(self, rows: dict[str, NDArray[np.float32]] | None = None) -> None:
        self._rows = dict(rows or {})

    @classmethod
    def read(cls, path: Path, sha256: str | None) -> ScoreCache:
        """Read a cache; an empty one unless the file has the expected digest.

        :param sha256: return value of :meth:`write`; None: no file is expected.
        """
        try:
            data = path.read_bytes() if sha256 else b""
        except FileNotFoundError:
            return cls()
        if digest_data(data) != sha256:
            return cls()
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls({key: arrays[key] for key in arrays.files})

    def write(self, path: Path) -> str:
        """Write the cache.

        :return: the file's digest, to be stored elsewhere.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **self._rows)  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
        write_file(path, buffer.getvalue())
        return digest_data(buffer.getvalue())

    def wrap(self, scorer: Scorer) -> Callable[[Requests], list[Scores]]:
        """Return a drop-in for :meth:`darl_opensearch.scoring.Scorer.score_many` that reuses cached calls."""
        graph, alpha = _graph(scorer), scorer.bundle.card.ood.alpha

        def score_many(requests: Requests) -> list[Scores]:
            key = _key(graph, requests)
            if (rows := self._rows.get(key)) is None:
                fresh = scorer.score_many(requests)
                if fresh:
                    self._rows[key] = np.concatenate([scores.data for scores in fresh])
                return fresh
            ends = np.cumsum([len(texts) for _, texts in requests])
            return [Scores(part, alpha) for part in np.split(rows, ends[:-1])]

        return score_many


def _graph(scorer: Scorer) -> dict[str, Any]:
    """Return everything that rows depend on, except the pairs."""
    bundle = scorer.bundle
    files = (*scorer.files, TOKENIZER)
    return {
        "files": {name: bundle.digests[name] for name in files if name in bundle.digests},
        "card": dataclasses.asdict(bundle.card), "provider": scorer.provider, "token_budget": scorer.token_budget,
        "int8": scorer.int8, "darl": __version__, "runtime": load_runtime().__version__,
        "machine": [platform.node(), platform.machine(), platform.processor()],
    }  # fmt: skip


def _key(graph: dict[str, Any], requests: Requests) -> str:
    pairs = [[query, list(texts)] for query, texts in requests]
    return digest_json([graph, pairs])
