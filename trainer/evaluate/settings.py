"""What ``darl evaluate`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.scoring import Provider


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to evaluate.

    :param models: folders of bundles, or of finished runs.
    :param parts: name and file of each judged part, ``id`` first.
    :param against: ``cosine``, ``bm25``, ``int8``, folders and TREC run files to compare with.
    :param first_stage: TREC run whose order the depth sweep starts from; None: BM25 over the items.
    :param depths: how many of the first stage's items are reranked; empty: no sweep.
    :param relevant_from: the lowest grade that counts as relevant in P, AP and RR.
    :param draws: resamples of every interval and sign patterns of every p-value.
    """

    models: tuple[Path, ...]
    items: tuple[Path, ...]
    parts: tuple[tuple[str, Path], ...]
    against: tuple[str, ...] = ()
    first_stage: Path | None = None
    depths: tuple[int, ...] = ()
    cutoffs: tuple[int, ...] = (3, 10)
    relevant_from: int = 1
    int8: bool = False
    provider: Provider = "cpu"
    threads: int | None = None
    draws: int = 2000
    seed: int = 0
