"""Why a text is strange: the training text that is nearest to it in words, and its words that no training text has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import TEXTS, Bundle, TrainingTexts
from darl_opensearch.monitor.themes import words_of

_MOST_WORDS = 8


@dataclass(frozen=True)
class Why:
    """What the training data has of a text.

    :param nearest: training text of the same kind that BM25 finds first; None: none shares a word.
    :param item_id: of that text, if it is an item's.
    :param new_words: words that no training text has, in order; numbers are left out.
    """

    nearest: str | None
    item_id: str | None
    new_words: tuple[str, ...]


class Nearest:
    """Training texts by their words; the detector itself compares features, which are in no bundle as texts."""

    def __init__(self, texts: TrainingTexts) -> None:
        self._texts = {"query": [("", query) for query in texts.queries], "item": list(texts.items)}
        self._indexes = {
            kind: Bm25Index((str(place), text) for place, (_, text) in enumerate(rows))
            for kind, rows in self._texts.items()
        }
        self._known = {word for rows in self._texts.values() for _, text in rows for word in words_of(text)}

    @classmethod
    def of(cls, bundle: Bundle) -> Nearest | None:
        """Read the training texts of a bundle; None if they were not exported."""
        return cls(bundle.training_texts()) if TEXTS in bundle.digests else None

    def query(self, text: str) -> Why:
        """Explain a query."""
        return self._why("query", text)

    def item(self, text: str) -> Why:
        """Explain an item."""
        return self._why("item", text)

    def _why(self, kind: str, text: str) -> Why:
        new = tuple(word for word in words_of(text) if not (word in self._known or word.isdigit()))[:_MOST_WORDS]
        hits = self._indexes[kind].search(text[:2000], 1)
        if not hits:
            return Why(None, None, new)
        item_id, nearest = self._texts[kind][int(hits[0].item_id)]
        return Why(nearest, item_id or None, new)


def describe(why: Why | None) -> Sequence[str]:
    """Write the two columns of a table; empty without training texts."""
    if why is None:
        return ()
    nearest = why.nearest if why.nearest is not None else "(none shares a word)"
    named = f"{why.item_id}: {nearest}" if why.item_id else nearest
    return named, ", ".join(why.new_words) or "–"
