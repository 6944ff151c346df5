"""BM25 of the embedded first stage."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darl_opensearch.bm25 import Bm25Index

ITEMS = [("a", "bike theft cover"), ("b", "bike bike bike"), ("c", "ship wreck"), ("d", "Küche brennt"), ("e", "a b c")]


def found(query: str, size: int = 10) -> list[str]:
    return [hit.item_id for hit in Bm25Index(ITEMS).search(query, size)]


def test_hits():
    assert found("ship") == ["c"]
    assert found("BIKE") == ["b", "a"]
    assert found("theft bike") == ["a", "b"]
    assert found("kuche") == ["d"]  # accents fold
    assert found("nothing there") == []
    assert found("bike", size=1) == ["b"]


def test_the_score_is_robertson_and_walkers():
    """k1 = 1.2, b = .75, as FTS5 documents; three words is the average length times 15 / 13."""
    hits = {hit.item_id: hit.score for hit in Bm25Index(ITEMS).search("theft", 10)}
    average = sum(len(text.split()) for _, text in ITEMS) / len(ITEMS)
    idf = math.log((5 - 1 + 0.5) / (1 + 0.5))
    assert hits == {"a": pytest.approx(idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / average)))}


def test_ties_keep_the_order_of_insertion():
    index = Bm25Index((f"i{n}", "same words") for n in range(20))
    assert [hit.item_id for hit in index.search("words", 20)] == [f"i{n}" for n in range(20)]


@pytest.mark.parametrize("query", ["", "  ", "!?", '"', "NEAR(", "bike AND", "item_id:a", "bike*", "a NOT c", "'; --"])
def test_punctuation_is_no_syntax(query):
    assert all(item_id in "abcde" for item_id in found(query))


@settings(deadline=None)
@given(query=st.text(max_size=60))
def test_any_text_is_a_query(query):
    hits = Bm25Index(ITEMS).search(query, 3)
    assert len(hits) <= 3
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_an_id_is_not_searched():
    assert Bm25Index([("zebra", "horse")]).search("zebra", 5) == []


def test_another_thread_may_let_it_go():
    """Its file is closed there; an error in that would be reported as unraisable, and fail the test."""
    held = [Bm25Index(ITEMS)]
    letting_go = threading.Thread(target=held.clear)
    letting_go.start()
    letting_go.join()
    assert held == []
