"""Documents and hits without ``darl_text``: one of them among a search's candidates, and nothing is reranked.

An alias over mixed indices, or a program that writes to the item index itself, brings them in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.config_files import render_body
from darl_opensearch.text import TEXT_FIELD

MOST_INDICES = 1000
FILTER = 'or pass over them with the filter {"exists": {"field": "%s"}}'


def count_documents_without_text(cluster: Cluster, index: str, field: str = TEXT_FIELD) -> dict[str, int]:
    """Count the documents that have no ``darl_text``.

    One that is indexed, by ``copy_to``, but not in ``_source`` is not found here, only as a hit.

    :param index: an index, an alias or a pattern.
    :param field: of the text, see :attr:`darl_opensearch.bundle.Card.text_field`.
    :return: how many, by the index that holds them; without those that hold none.
    """
    body = render_body("count_without_text.json", most_indices=MOST_INDICES, text_field=field)
    answer = cluster.search(index, body)
    buckets = answer.get("aggregations", {}).get("indices", {}).get("buckets", [])
    return {str(bucket["key"]): int(bucket["doc_count"]) for bucket in buckets}


def count_hits_without_text(hits: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count the hits of a search that have no ``darl_text``, by index."""
    return dict(Counter(str(hit.get("_index", "?")) for hit in hits if not (hit.get("_source") or {}).get(TEXT_FIELD)))


def describe_documents_without_text(counts: Mapping[str, int], field: str = TEXT_FIELD) -> str:
    """Say how many documents have no text, and what to do; empty without any.

    :param field: of the text.
    """
    total = sum(counts.values())
    if not total:
        return ""
    have = "1 document has" if total == 1 else f"{total:,} documents have"
    return (
        f"{have} no {field} ({_name(counts)}): a search with one among its candidates is not reranked. "
        f"Load them with darl index, {FILTER % field}"
    )


def describe_hits_without_text(counts: Mapping[str, int], hits: int) -> str:
    """Say how many hits of a search have no text, and what to do; empty without any.

    :param hits: how many the search found.
    """
    total = sum(counts.values())
    if not total:
        return ""
    have = "has" if total == 1 else "have"
    return (
        f"{total:,} of {hits:,} hits {have} no {TEXT_FIELD} ({_name(counts)}). "
        "Load them with darl index, or search without that index"
    )


def _name(counts: Mapping[str, int]) -> str:
    parts = [f"index {index}" if len(counts) == 1 else f"{index}: {count:,}" for index, count in counts.items()]
    return ", ".join(parts[:5]) + (", …" if len(parts) > 5 else "")
