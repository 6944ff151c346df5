"""Which tokens of an item are like which of the query: what the head of the split backbone reads, to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import MEET, Bundle
from darl_opensearch.scoring import Scorer
from darl_opensearch.scoring.encode import CappedTokenizer
from darl_opensearch.scoring.halves import HalfScorer
from darl_opensearch.states import ZERO, ItemState

LEVELS = (0.9, 0.95, 0.98, 0.995)  # a token is drawn by how many tokens of the candidates it exceeds

Floats = NDArray[np.float32]
Spans = Sequence[tuple[int, int] | None]


def why_without_tokens(bundle: Bundle) -> str:
    """Say why a bundle's token similarities cannot be drawn; ``""`` if they can."""
    if bundle.has_states():
        return ""
    if bundle.card.backbone != "split":
        return f"The backbone {bundle.card.backbone!r} reads query and item together: there is nothing to compare."
    reason = (bundle.card.graphs.get(MEET) or {}).get("left_out")
    return f"This bundle has no graphs for item states ({reason or 'exported by an earlier version'})."


class TokenComparer:
    """Compares the tokens of queries and items by the cosine of their states.

    :param scorer: of a bundle with item states, which it makes and keeps.
    :param halves: the scorer's.
    """

    def __init__(self, scorer: Scorer, halves: HalfScorer) -> None:
        self._scorer, self._halves = scorer, halves
        card = scorer.bundle.card
        self._tokenizer = CappedTokenizer(scorer.bundle.tokenizer, card.query_cap, card.item_cap)

    def levels(self, query: str, items: Sequence[str]) -> list[float]:
        """Return similarities that tokens of these items seldom exceed, by :data:`LEVELS`; empty without items.

        What is much differs between encoders, so the candidates of the search are the measure.
        """
        query_spans = self._tokenizer.query_spans(query)
        best = [
            sims.max(axis=1) for text in self._scorer.chunk(items)[0]
            if (sims := self._compare(query, query_spans, text)[1]).size
        ]  # fmt: skip
        return [round(float(value), 3) for value in np.quantile(np.concatenate(best), LEVELS)] if best else []

    def compare(self, query: str, item: str) -> dict[str, Any]:
        """Compare a query with an item, or with that of its chunks which scores best.

        :return: ``tokens``: the query's, as written; ``pieces``: the item's text in order, each with ``similar``, a
            value for each token of the query, or without where no token is; ``chunk`` and ``chunks``, from 1.
        """
        chunks = self._scorer.chunk([item])[0]
        rows, _ = self._halves.score(query, chunks)
        best = int(rows[:, 0].argmax())
        text = chunks[best]
        query_spans = self._tokenizer.query_spans(query)
        spans, sims = self._compare(query, query_spans, text)
        pieces = [
            {"text": part} | ({"similar": [round(float(v), 3) for v in sims[of].max(axis=0)]} if of else {})
            for part, of in cut(text, spans)
        ]  # fmt: skip
        tokens = [query[span[0] : span[1]] for span in query_spans if span is not None]
        return {"tokens": tokens, "pieces": pieces, "chunk": best + 1, "chunks": len(chunks)}

    def _compare(self, query: str, query_spans: Spans, text: str) -> tuple[list[tuple[int, int]], Floats]:
        """Compare the tokens that are text, ``[b, a]``: without the template's own."""
        key = self._halves.keys.of(text)
        state = self._halves.fill({key: text})[key]
        spans = self._tokenizer.item_spans(text)
        sims = similarities(self._halves.encode_query(query), state)
        rows, columns = ([n for n, span in enumerate(part) if span is not None] for part in (spans, query_spans))
        return [span for span in spans if span is not None], sims[np.ix_(rows, columns)]


def similarities(query: dict[str, NDArray[Any]], item: ItemState) -> Floats:
    """Compute the cosines that ``meet.onnx`` computes.

    :param query: of :meth:`HalfScorer.encode_query`.
    :return: ``[b, a]``, a row for each of the item's tokens.
    """
    products = (item.tokens.astype(np.float32) - ZERO) @ query["query_tokens"].astype(np.float32)
    sims: Floats = products * item.scales[:, None] * query["query_scales"][None, :]
    return sims


def cut(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, list[int]]]:
    """Cut a text at its tokens.

    :param spans: of the tokens, in order. Those of byte-level tokenizers may share a character or begin with a blank.
    :yields: pieces that together are the text, each with its tokens; none for what lies between.
    """
    done, rows = 0, list[int]()
    start = end = 0
    for row, (first, last) in enumerate(spans):
        first += len(text[first:last]) - len(text[first:last].lstrip())
        if first >= last:  # a blank of its own
            continue
        if rows and first < end:
            end, rows = max(end, last), [*rows, row]
            continue
        if rows:
            yield text[start:end], rows
            done = end
        if first > done:
            yield text[done:first], []
        start, end, rows = first, last, [row]
    if rows:
        yield text[start:end], rows
        done = end
    if done < len(text):
        yield text[done:], []
