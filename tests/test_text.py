"""Items as text: rendering, and the cut at a word border."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from darl_opensearch.errors import InputError
from darl_opensearch.text import MAX_ITEM_CHARS, ItemRenderer, ItemTemplate, clean, cut_to_tokens, same_text
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE, tiny_tokenizer

WORDPIECE = tiny_tokenizer([TEMPLATE.render(item) for item in ITEMS] + QUERIES, 20)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(QUERIES, trainer)
    return tokenizer


TOKENIZERS = {"wordpiece": WORDPIECE, "byte-level": byte_level()}


def test_rendering():
    template = ItemTemplate(fields=("=name", "kind", "tags", "price"), separator=" | ")
    item = {"name": "  Bike\n theft ", "kind": None, "tags": ["a", ["b  c", None]], "price": 0, "other": "x"}
    assert template.render(item) == "Bike theft | tags: a b c | price: 0"
    assert ItemTemplate(fields=("kind",), separator="; ").render({"kind": "x"}) == "kind: x"


def render(fields, **item):
    return ItemTemplate(fields=fields).render({"id": "p1", **item}, where="items.jsonl, line 3")


def test_fields_inside_objects():
    page = {"text": "good  morning walk", "page": 1}
    assert render(("=content.text", "content.page"), content=page) == "good morning walk | content.page: 1"
    pages = [page, {"page": 2}, {"text": ["slow", "run"]}]
    assert render(("content.text",), content=pages) == "content.text: good morning walk slow run"
    assert render(("=a.b.c",), a={"b.c": "x"}) == render(("=a.b.c",), a={"b": [{"c": "x"}]}) == "x"
    assert render(("=a.b",), **{"a.b": "flat", "a": {"b": "nested"}}) == "flat"
    assert render(("=title", "content.text"), title="t", content={}) == "t"
    assert render(("=title", "content.text"), title="t", content="words") == "t"


@pytest.mark.parametrize(
    "content", [{"text": "walk", "page": 1}, [{"text": "walk"}, {"page": 1}], ["a", {"text": 1, "page": 2}]]
)
def test_an_object_is_not_text(content):
    with pytest.raises(InputError) as caught:
        render(("=title", "content"), title="t", content=content)
    assert str(caught.value) == (
        "items.jsonl, line 3: field 'content' of item 'p1' is an object, not text. "
        "Name a field inside it in the template: content.text, content.page."
    )


def test_booleans_are_spelt_as_in_json():
    assert render(("=in_stock", "sale", "flags"), in_stock=True, sale=False, flags=[True, "a", 1.5]) == (
        "true | sale: false | flags: true a 1.5"
    )
    assert render(("=title", "content"), title="t", content={}) == render(("=title", "n"), title="t", n=[{}]) == "t"


def test_ids_and_slices_inside_objects():
    template = ItemTemplate(fields=("name",), id_field="meta.sku", slice_field="meta.kind")
    item = {"meta": {"sku": 7, "kind": "pet"}}
    assert (template.item_id(item), template.slice_of(item)) == ("7", "pet")
    with pytest.raises(InputError, match=r"x, line 1: field 'meta' is \{.*, not an id. Name the field"):
        ItemTemplate(fields=("name",), id_field="meta").item_id(item, where="x, line 1")
    with pytest.raises(InputError, match=r"field 'meta' of item 3 is \{.*, not the name of a slice"):
        ItemTemplate(fields=("name",), slice_field="meta").slice_of({"id": 3, **item})


def test_an_item_known_by_its_text_alone():
    template = ItemTemplate(("=name", "cover"))
    assert template.render({"id": "x", "darl_text": "Seaside  cover"}) == "Seaside cover"
    assert template.render({"name": "Bike", "darl_text": "an old rendering"}) == "Bike"


def test_rendering_what_has_no_text():
    with pytest.raises(InputError) as caught:
        TEMPLATE.render({"name": " ", "kind": [], "cover": None}, where="items.jsonl, line 3")
    assert str(caught.value) == (
        "items.jsonl, line 3: the item has none of the template's fields (name, kind, cover). Fill one."
    )


def test_ten_megabytes():
    with pytest.raises(InputError) as caught:
        TEMPLATE.render({"name": "x" * 10_000_000}, where="items.jsonl, line 3")
    text = str(caught.value)
    assert text.startswith("items.jsonl, line 3: field 'name' has 10,000,000 characters, more than 1,000,000.")
    assert len(text) < 300
    assert TEMPLATE.render({"name": "x" * MAX_ITEM_CHARS})


@pytest.mark.parametrize("fields", [(), ("",), ("=",), ("name", "=")])
def test_a_template_without_a_field(fields):
    with pytest.raises(InputError, match="names no fields"):
        ItemTemplate(fields=fields)


def test_ids_and_slices():
    template = ItemTemplate(fields=("name",), id_field="sku", slice_field="kind")
    assert template.item_id({"sku": 0}) == "0"
    assert template.slice_of({"kind": "pet"}) == "pet" and template.slice_of({}) == ""
    assert ItemTemplate(fields=("name",)).slice_of({"kind": "pet"}) == ""
    for value, name in ((0, "0"), (0.0, "0.0"), (7, "7"), (False, "False"), ("", ""), (None, ""), ([], "")):
        assert template.slice_of({"kind": value}) == name
    for row in ({}, {"sku": None}, {"sku": ""}):
        with pytest.raises(InputError, match="x, line 1: the item has no 'sku'"):
            template.item_id(row, where="x, line 1")


def count(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text, whatever the tokenizer's own truncation."""
    free = Tokenizer.from_str(tokenizer.to_str())
    free.no_truncation()
    return len(free.encode(text, add_special_tokens=False).ids)


texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(["bike", "theft", "Küche", "保险", "🚲", "a" * 30, "1,2", "\u200b"]), max_size=40).map(
        " ".join
    ),
)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None, max_examples=150)
@given(text=texts, cap=st.integers(1, 30))
def test_cut_laws(name, text, cap):
    """At most the cap, a beginning of the text, stable, and whole when it fits."""
    tokenizer = TOKENIZERS[name]
    cut = cut_to_tokens(text, tokenizer, cap)
    assert text.startswith(cut)
    assert count(tokenizer, cut) <= cap
    assert cut_to_tokens(cut, tokenizer, cap) == cut
    if len(text) <= cap * 64 and count(tokenizer, text) <= cap:
        assert cut == text


def test_a_truncation_of_the_tokenizer_itself_cuts_nothing():
    """``tokenizer.json`` may carry one; it is the cap that counts."""
    tokenizer = Tokenizer.from_str(WORDPIECE.to_str())
    tokenizer.enable_truncation(20)
    for cap in (19, 20, 21, 30, 40, 41, 50):
        text = "0:" * 25
        assert cut_to_tokens(text, tokenizer, cap) == text[:cap]


def test_cut_is_at_a_word_border_and_not_shorter_than_needed():
    text = "stolen bicycle lost luggage"
    counts = [count(WORDPIECE, " ".join(text.split()[:n])) for n in range(5)]
    for cap in range(counts[1], counts[4] + 1):
        words = max(n for n in range(5) if counts[n] <= cap)
        assert cut_to_tokens(text, WORDPIECE, cap) == " ".join(text.split()[:words])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_word_longer_than_the_cap_is_split(name):
    word = max("accidentally ridersides roofing locksley".split(), key=lambda w: count(TOKENIZERS[name], w))
    cap = count(TOKENIZERS[name], word) - 1
    assert cap > 0
    assert 0 < len(cut_to_tokens(word, TOKENIZERS[name], cap)) < len(word)


@settings(deadline=None)
@given(cap=st.integers(1, 18))
def test_the_renderer_cuts_what_the_template_renders(cap):
    renderer = ItemRenderer(TEMPLATE, WORDPIECE, cap)
    for item in ITEMS:
        assert renderer(item) == cut_to_tokens(TEMPLATE.render(item), WORDPIECE, cap)


def test_the_same_query_typed_in_another_way_is_one_query():
    assert same_text("  Dog  Insurance ") == same_text("dog insurance")
    assert same_text("GROSSE STRASSE") == same_text("große Straße")
    assert same_text("Cafe\u0301") == same_text("CAF\u00c9") == "caf\u00e9"  # composed or not
    assert (
        same_text("\u1ebf") == same_text("e\u0302\u0301") != same_text("e\u0301\u0302")
    )  # the order of accents counts
    assert same_text("cafe") != same_text("caf\u00e9")


@given(st.text())
def test_same_text_is_the_same_in_every_spelling(text):
    said = same_text(text)
    assert said == same_text(said) == same_text(f" {text}\t")
    for form in ("NFC", "NFD"):
        assert same_text(unicodedata.normalize(form, text)) == said


@given(st.text())
def test_cleaning_changes_lone_surrogates_alone(text):
    assert clean(text) == text
    assert clean(f"{text}\ud800 {text}") == f"{text}\ufffd {text}"
