"""Graded reranking for OpenSearch that detects out-of-distribution traffic."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from darl_opensearch.version import __version__

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle as Bundle
    from darl_opensearch.errors import DarlError as DarlError
    from darl_opensearch.reranker import RankedDocument as RankedDocument
    from darl_opensearch.reranker import Reranker as Reranker
    from darl_opensearch.scores import Scores as Scores
    from darl_opensearch.scoring import Scorer as Scorer
    from darl_opensearch.search import PipelineSearch as PipelineSearch
    from darl_opensearch.search import RankedHit as RankedHit
    from darl_opensearch.search import SearchOutcome as SearchOutcome

_MODULES = {
    "Reranker": "reranker", "RankedDocument": "reranker", "Scorer": "scoring", "Scores": "scores",
    "PipelineSearch": "search", "SearchOutcome": "search", "RankedHit": "search", "Bundle": "bundle",
    "DarlError": "errors",
}  # fmt: skip
__all__ = [
    "Bundle", "DarlError", "PipelineSearch", "RankedDocument", "RankedHit", "Reranker", "Scorer", "Scores",
    "SearchOutcome", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public class when it is first used, so that ``darl --help`` pays for none of them."""
    if name not in _MODULES:
        raise AttributeError(f"module 'darl_opensearch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
