"""The catalogue: item texts that the log lacks, and further hits for a query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from darl_opensearch.bm25 import Bm25Index


@dataclass(frozen=True)
class Items:
    """Access to the catalogue.

    :param texts: rendered texts by id; unknown ids are left out.
    :param search: ids of the top ``n`` hits for a query, best first; None: no search.
    """

    texts: Callable[[list[str]], Mapping[str, str]]
    search: Callable[[str, int], Sequence[str]] | None = None

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> Items:
        """Serve items from memory, searched by BM25."""
        index = Bm25Index(texts.items(), on_disk=True)
        return cls(
            lambda ids: {item: texts[item] for item in ids if item in texts},
            lambda query, size: [hit.item_id for hit in index.search(query, size)],
        )


NO_ITEMS = Items(lambda ids: {})
