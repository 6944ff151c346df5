"""Long items: how a text is cut into chunks, and how their rows become the item's."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darl_opensearch.bundle import Card
from darl_opensearch.errors import BundleError, InputError
from darl_opensearch.scores import join_chunks, score_chunks
from darl_opensearch.text import MOST_CHUNKS, ItemRenderer, ItemTemplate, cut_to_tokens
from tests.helpers.bundles import tiny_tokenizer
from tests.helpers.training_project import tiny_tokenizer as base_tokenizer

WORDS = "stolen bicycle lost luggage storm roof fire kitchen rescue piste riders cover".split()
WORDPIECE = tiny_tokenizer([" ".join(WORDS)], 40)  # its own truncation is shorter than the texts
TOKENIZERS = {"wordpiece": WORDPIECE, "bert": base_tokenizer("bert")[0]}
FIELDS = ("=title", "=text")


def renderer(chunks, cap=16, *, title_fields=1, fields=FIELDS, tokenizer=WORDPIECE):
    return ItemRenderer(ItemTemplate(fields, chunks=chunks, title_fields=title_fields), tokenizer, cap)


def tokens(tokenizer, text):
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return [token for part in (encoding, *encoding.overflowing) for token in part.tokens]


def count(tokenizer, text):
    return len(tokens(tokenizer, text))


def numbered(size):
    return " ".join(f"{WORDS[n % len(WORDS)]} {n}" for n in range(size))


def test_one_chunk_is_the_text_cut_at_the_cap():
    text = "Bike theft | " + numbered(60)
    one = renderer(1)
    assert one.chunks(text) == [text]  # the scorer cuts it, as before
    assert one.cut(text) == one.first(text) == cut_to_tokens(text, WORDPIECE, 16)
    assert renderer(4).first(text) == renderer(4).chunks(text)[0] == one.first(text)


def test_further_chunks_keep_the_title_and_go_on_where_the_last_ended():
    text = "Bike theft | " + numbered(60)
    whole = renderer(MOST_CHUNKS)
    chunks = whole.chunks(text)
    assert len(chunks) > 5 and all(chunk.startswith("Bike theft | ") for chunk in chunks)
    assert all(0 < count(WORDPIECE, chunk) <= 16 for chunk in chunks)
    rest = text.removeprefix("Bike theft | ")
    end = 0
    for chunk in chunks:
        piece = chunk.removeprefix("Bike theft | ")
        start = rest.index(piece, max(0, end - len(piece)))
        assert start <= end + 1 < start + len(piece) + 1  # it begins at or before the end of the last, and goes on
        assert start == 0 or rest[start - 1] == " "  # at a word border
        end = start + len(piece)
    assert end == len(rest) and whole.cut(text) == text
    last = chunks[1].removeprefix("Bike theft | ").split()[0]
    assert chunks[0].split()[-1] == last  # 16 tokens: one word of overlap


def test_beyond_the_bound_text_is_left_out():
    text = "Bike theft | " + numbered(60)
    three = renderer(3)
    assert three.chunks(text) == renderer(MOST_CHUNKS).chunks(text)[:3]
    assert text.startswith(three.cut(text)) and three.cut(text).endswith(three.chunks(text)[-1].split()[-1])
    assert three.goes_beyond({"title": "Bike theft", "text": numbered(60)})
    assert not three.goes_beyond({"title": "Bike theft", "text": "a lock"})
    assert not renderer(1).goes_beyond({"title": "Bike theft", "text": numbered(60)})  # as before: not counted


@pytest.mark.parametrize(
    ("fields", "title_fields", "text", "title"),
    [
        (FIELDS, 1, "Bike | " + numbered(60), "Bike | "),
        (FIELDS, 0, "Bike | " + numbered(60), ""),
        (("=text",), 1, "Bike | " + numbered(60), ""),  # one field: there is no title
        (FIELDS, 1, numbered(60), ""),  # an item without a title
        (FIELDS, 1, numbered(20) + " | " + numbered(60), ""),  # it would fill more than half of each chunk
        (("=brand", "=title", "=text"), 2, "Fire | Bike | " + numbered(60), "Fire | Bike | "),
        (("=brand", "=title", "=text"), 5, "Fire | Bike | " + numbered(60), "Fire | Bike | "),
    ],
)
def test_what_counts_as_the_title(fields, title_fields, text, title):
    first, *others = renderer(6, fields=fields, title_fields=title_fields).chunks(text)
    assert text.startswith(first) and len(others) == 5
    for chunk in others:
        assert chunk.startswith(title)
        assert chunk.removeprefix(title) in text and (not title or "|" not in chunk.removeprefix(title))


def test_short_and_awkward_texts():
    four = renderer(4)
    for text in ("", " ", "Bike | lock", "Bike | " + " " * 50):
        assert len(four.chunks(text)) == 1 and four.cut(text) == text
    assert four.chunks("\ud800")[0] == "\ufffd"
    word = "fire" * 10  # longer than a chunk: split, and none of it is lost
    assert "".join(chunk.removeprefix("Bike | ") for chunk in four.chunks(f"Bike | {word}")[1:]) == word


pieces = st.sampled_from([*WORDS, "Küche", "保险", "🚲", "a" * 70, "1,2", "\u200b", "|", " | "])


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None, max_examples=30)
@given(text=st.lists(pieces, max_size=50).map(" ".join), chunks=st.integers(2, 9), cap=st.integers(8, 24))
def test_laws_of_chunks(name, text, chunks, cap):
    """Within cap and bound, the same each time, and every token of the kept text is in a chunk."""
    tokenizer = TOKENIZERS[name]
    one, again = (renderer(chunks, cap, tokenizer=tokenizer) for _ in range(2))
    found, cut = one.chunks(text), one.cut(text)
    assert found == again.chunks(text) == one.chunks(text)
    assert 1 <= len(found) <= chunks and text.startswith(cut)
    assert all(count(tokenizer, chunk) <= cap for chunk in found)
    assert found[0] == cut_to_tokens(text, tokenizer, cap)
    if "a" * 70 not in text:  # a word that no chunk can hold is split
        assert one.cut(cut) == cut and one.chunks(cut) == found
        assert set(tokens(tokenizer, cut)) <= {token for chunk in found for token in tokens(tokenizer, chunk)}
    if len(found) < chunks:
        assert cut.rstrip() == text.rstrip()


def test_all_columns_are_those_of_the_best_chunk():
    rows = np.array([[0.2, 1], [0.7, 2], [0.7, 3], [0.1, 4], [0.5, 5], [0.4, 6]], dtype=np.float32)
    np.testing.assert_array_equal(join_chunks(rows, [3, 1, 2]), rows[[1, 3, 4]])  # ties to the first
    assert join_chunks(rows, [1] * 6) is rows
    assert join_chunks(rows[:0], []).shape == (0, 2)

    def score(pairs):
        return np.array([[len(query + text), len(text)] for query, text in pairs], dtype=np.float32)

    found = score_chunks(score, [("q", "a bcd ef"), ("qq", "g")], str.split)
    np.testing.assert_array_equal(found, np.float32([[4, 3], [3, 1]]))


def test_the_card_has_chunks_only_where_there_are_some(tiny):
    """A bundle without them is as those of earlier versions, which read it, and theirs are read here."""
    card = tiny.card
    assert "chunks" not in card.to_json()["template"] and "title_fields" not in card.to_json()["template"]
    assert Card.from_json(card.to_json(), where="x").template.chunks == 1 and card.text_field == "darl_text"
    long = dataclasses.replace(card, template=dataclasses.replace(card.template, chunks=4, title_fields=2))
    data = json.loads(json.dumps(long.to_json()))
    assert data["template"]["chunks"] == 4 and data["template"]["title_fields"] == 2
    assert Card.from_json(data, where="x") == long and long.text_field == "darl_long_text"
    data["template"]["chunks"] = 0
    with pytest.raises(BundleError, match="cannot be scored in 0 chunks"):
        Card.from_json(data, where="x")


def test_templates_that_cannot_be_cut():
    with pytest.raises(InputError, match="cannot be scored in 65 chunks. Set 1 to 64"):
        ItemTemplate(FIELDS, chunks=65)
    with pytest.raises(InputError, match="with a blank separator the title"):
        ItemTemplate(FIELDS, separator=" ", chunks=2)
    assert ItemTemplate(FIELDS, separator=" ", chunks=2, title_fields=0).chunks == 2
