"""Candidates of a query: from BM25 over files of items, or from a cluster's index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import InputError
from darl_opensearch.records.items import item_twice, iter_items
from darl_opensearch.search import PipelineSearch
from darl_opensearch.text import ID_FIELD

Texts = tuple[str | None, ...]


@dataclass(frozen=True)
class Candidate:
    """An item that the first stage found.

    :param key: identifies it among the candidates: a document's ``_id``.
    :param item_id: its id in judgments.
    :param score: the first stage's.
    :param texts: what each of the compared bundles reads; None: it cannot render the item.
    """

    key: str
    item_id: str
    score: float | None
    texts: Texts


class Retriever(Protocol):
    """Retrieves candidates.

    :param name: what searches where, for the page.
    """

    name: str

    def retrieve(self, query: str, size: int) -> list[Candidate]:
        """Retrieve candidates, best first."""
        ...


class FileRetriever:
    """BM25 over items in memory.

    :param bundles: whose templates render the items; BM25 reads what the first one renders.
    :param files: JSONL.
    :param blank: gets the ids of items without text, which are left out.
    :param report: called with the number of items read.
    :raises InputError: for an invalid line, or an item that is in the files twice.
    """

    def __init__(
        self, bundles: Sequence[Bundle], files: Sequence[Path], blank: Counter[str],
        report: Callable[[int], object] = lambda count: None,
    ) -> None:  # fmt: skip
        self._texts: list[dict[str, str]] = []
        for bundle in bundles:
            same = next((n for n, other in enumerate(bundles) if _renders_alike(bundle, other)), 0)
            if same < len(self._texts):
                self._texts.append(self._texts[same])
                continue
            texts: dict[str, str] = {}
            for path in files:
                places: dict[str, str] = {}
                for where, item in iter_items(path, bundle.renderer, blank):
                    if item.item_id in texts:
                        first = places.get(item.item_id, "an earlier file")
                        raise item_twice(item.item_id, first=first, where=where)
                    texts[item.item_id], places[item.item_id] = item.text, where
                    report(len(texts))
            self._texts.append(texts)
        self._index = Bm25Index(self._texts[0].items())
        self.name = f"BM25 over {len(self._texts[0]):,} items of {', '.join(path.name for path in files)}"

    def retrieve(self, query: str, size: int) -> list[Candidate]:
        """Retrieve the items that share words with a query."""
        return [
            Candidate(hit.item_id, hit.item_id, hit.score, tuple(texts.get(hit.item_id) for texts in self._texts))
            for hit in self._index.search(query, size)
        ]


class ClusterRetriever:
    """A match on ``darl_text`` in an index, without a pipeline.

    :param search: of the index.
    :param bundles: the first is the one that the index was loaded with.
    """

    def __init__(self, search: PipelineSearch, bundles: Sequence[Bundle]) -> None:
        self._search, self._bundles = search, bundles
        self.name = f"OpenSearch, match on darl_text in {search.index}"

    def retrieve(self, query: str, size: int) -> list[Candidate]:
        """Retrieve hits.

        :raises ClusterError: if the cluster does not answer.
        """
        return [self.of_hit(str(hit.get("_id")), hit.get("_source") or {}, hit.get("_score"))
                for hit in self._search.first_stage(query, size=size)]  # fmt: skip

    def of_hit(self, key: str, source: Mapping[str, Any], score: float | None) -> Candidate:
        """Make a candidate of a hit."""
        first = self._bundles[0]
        texts = tuple(_text_of(bundle, source, as_indexed=_renders_alike(bundle, first)) for bundle in self._bundles)
        return Candidate(key, str(source.get(ID_FIELD) or key), score, texts)


def _renders_alike(one: Bundle, other: Bundle) -> bool:
    """Tell whether two bundles render items as the same text."""
    same = one.card.template == other.card.template and one.card.item_cap == other.card.item_cap
    return same and one.tokenizer.to_str() == other.tokenizer.to_str()


def _text_of(bundle: Bundle, source: Mapping[str, Any], *, as_indexed: bool) -> str | None:
    """Return what a bundle reads of a hit: the text in the index if it was rendered as the bundle does it."""
    text = source.get(bundle.card.text_field)
    if as_indexed and isinstance(text, str) and text:
        return text
    try:
        return bundle.renderer(source)
    except InputError:
        return None
