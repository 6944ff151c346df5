"""The reranker in the shapes of other libraries; each is imported when its class is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from darl_opensearch.errors import load

if TYPE_CHECKING:
    from darl_opensearch.adapters.cross_encoder import DarlCrossEncoder as DarlCrossEncoder
    from darl_opensearch.adapters.haystack import DarlRanker as DarlRanker
    from darl_opensearch.adapters.langchain import DarlDocumentCompressor as DarlDocumentCompressor
    from darl_opensearch.adapters.llama_index import DarlNodePostprocessor as DarlNodePostprocessor
    from darl_opensearch.adapters.rerankers import DarlReranker as DarlReranker

# Module, and the library behind it with the extra that brings it.
_MODULES = {
    "DarlDocumentCompressor": ("langchain", "langchain_core", "langchain"),
    "DarlNodePostprocessor": ("llama_index", "llama_index.core", "llama-index"),
    "DarlRanker": ("haystack", "haystack", "haystack"),
    "DarlReranker": ("rerankers", "rerankers", "rerankers"),
    "DarlCrossEncoder": ("cross_encoder", None, None),
}
__all__ = ["DarlCrossEncoder", "DarlDocumentCompressor", "DarlNodePostprocessor", "DarlRanker", "DarlReranker"]


def __getattr__(name: str) -> object:
    """Import an adapter, or say which extra brings its library."""
    if name not in _MODULES:
        raise AttributeError(f"module 'darl_opensearch.adapters' has no attribute {name!r}")
    module, library, extra = _MODULES[name]
    if library and extra:
        load(library, extra)
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
