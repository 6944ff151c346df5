"""The catalogue, for item texts missing from the log and further hits of a query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from darl_opensearch.bm25 import Bm25Index


@dataclass(frozen=True)
class Items:
    """The catalogue, as far as it can be asked.

    :param texts: rendered texts by id, of those that it has.
    :param search: ids of the items that a query finds, best first, given how many; None: it cannot be searched.
    """

    texts: Callable[[list[str]], Mapping[str, str]]
    search: Callable[[str, int], Sequence[str]] | None = None

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> Items:
        """Take items that are in memory, and search them by BM25."""
        index = Bm25Index(texts.items(), on_disk=True)
        return cls(
            lambda ids: {item: texts[item] for item in ids if item in texts},
            lambda query, size: [hit.item_id for hit in index.search(query, size)],
        )


NO_ITEMS = Items(lambda ids: {})
