"""Graded, distribution-aware reranking for OpenSearch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle as Bundle
    from darl_opensearch.reranker import Reranker as Reranker
    from darl_opensearch.scoring import Scorer as Scorer
    from darl_opensearch.search import PipelineSearch as PipelineSearch

__version__ = "0.1.0"
__all__ = ["Bundle", "PipelineSearch", "Reranker", "Scorer", "__version__"]

_HOMES = {"Bundle": "bundle", "PipelineSearch": "search", "Reranker": "reranker", "Scorer": "scoring"}


def __getattr__(name: str) -> object:
    """Load the public classes late, so that ``darl --help`` pays for none of them.

    :param name: one of ``__all__``.
    :raises AttributeError: for any other name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'darl_opensearch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
