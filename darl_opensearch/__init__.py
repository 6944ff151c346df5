"""Graded, distribution-aware reranking for OpenSearch."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Bundle", "Reranker", "Scorer", "__version__"]


def __getattr__(name: str) -> object:
    """Load the public classes late, so that ``darl --help`` pays for none of them.

    :param name: one of ``__all__``.
    :return: the class.
    :raises AttributeError: for any other name.
    """
    if name == "Bundle":
        from darl_opensearch.bundle import Bundle

        return Bundle
    if name == "Scorer":
        from darl_opensearch.scoring import Scorer

        return Scorer
    if name == "Reranker":
        from darl_opensearch.search import Reranker

        return Reranker
    raise AttributeError(f"module 'darl_opensearch' has no attribute {name!r}")
