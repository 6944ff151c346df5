"""Reading and splitting: each bad line in one line, and nothing shared where nothing may be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import InputError
from darl_opensearch.records.items import Item, read_items
from darl_opensearch.records.judgments import JudgedQuery, check_disjoint, digest_records, read_judgments
from darl_opensearch.records.traffic import TrafficQuery, read_traffic
from darl_opensearch.text import ItemRenderer, ItemTemplate, same_text
from tests.helpers.files import write_rows
from tests.helpers.training_project import laws, tiny_tokenizer
from trainer.data.splits import choose_calibration_items, hold_out, leave_out_items, retrieve_for_traffic

ITEMS = {f"i{n}": Item(f"i{n}", f"text {n}", "") for n in range(6)}
GOOD = {"query_id": "q1", "query": "shoes", "item_id": "i1", "grade": 1}


def renderer() -> ItemRenderer:
    return ItemRenderer(ItemTemplate(("=title",), slice_field="kind"), tiny_tokenizer("bert")[0], 16)


def test_items(tmp_path):
    path = write_rows(
        tmp_path / "items.jsonl", [{"id": 1, "title": "bike fire", "kind": "bike"}, {"id": "b", "title": "x"}]
    )
    assert read_items(path, renderer()) == {"1": Item("1", "bike fire", "bike"), "b": Item("b", "x", "")}


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ([{"id": "a", "title": "x"}, {"id": "a", "title": "y"}], 2, "item 'a' appears twice (first: "),
        ([{"title": "x"}], 1, "the item has no 'id'. Give each item its own id"),
        ([{"id": "a", "title": " "}], 1, "the item has none of the template's fields (title)"),
        ([{"id": "a", "title": "x" * 10_000_000}], 1, "field 'title' has 10,000,000 characters"),
    ],
)
def test_bad_items(tmp_path, rows, line, message):
    path = write_rows(tmp_path / "items.jsonl", rows)
    with pytest.raises(InputError) as caught:
        read_items(path, renderer())
    check(caught, f"{path}, line {line}: ", message)


def check(caught, start, message):
    text = str(caught.value)
    assert text.startswith(start) and message in text, text
    assert "\n" not in text and len(text) < 600 and caught.value.todo and caught.value.exit_code == 1


def test_judgments_are_gathered_by_query(tmp_path):
    rows = [GOOD, GOOD | {"query_id": "q2", "query": "boots ", "slice": "winter"}, GOOD | {"item_id": "i2", "grade": 0},
            {"query": "no id", "item_id": "i3", "grade": 2}]  # fmt: skip
    assert read_judgments(write_rows(tmp_path / "j.jsonl", rows), ITEMS, 3) == [
        JudgedQuery("q1", "shoes", ("i1", "i2"), (1, 0)),
        JudgedQuery("q2", "boots", ("i1",), (1,), "winter"),
        JudgedQuery("no id", "no id", ("i3",), (2,)),
    ]


def test_items_without_text_are_left_out_of_traffic(tmp_path):
    rows = [{"query": "a", "items": ["i1", "blank", "i2"]}, {"query": "b", "items": ["blank"]}]
    assert read_traffic(write_rows(tmp_path / "t.jsonl", rows), ITEMS, {"blank"}) == [
        TrafficQuery("a", "a", ("i1", "i2")), TrafficQuery("b", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"grade": 3},
            "field 'grade' is 3, not a whole number in 0..2. Correct the line, or add the grade to [grades]",
        ),
        ({"grade": -1}, "field 'grade' is -1, not a whole number in 0..2"),
        ({"grade": 1.0}, "field 'grade' is 1.0, not a whole number in 0..2"),
        ({"grade": "one"}, "field 'grade' is 'one', not a whole number in 0..2"),
        ({"grade": True}, "field 'grade' is True, not a whole number in 0..2"),
        ({"grade": None}, "field 'grade' is None, not a whole number in 0..2"),
        ({"grade": "x" * 10_000_000}, ", not a whole number in 0..2"),
        ({"query": ""}, "field 'query' is empty or not text. Add the query's text"),
        ({"query": " \t"}, "field 'query' is empty or not text"),
        ({"query": 7}, "field 'query' is empty or not text"),
        ({"query": None}, "field 'query' is empty or not text"),
        ({"query": "x" * 10_000_000}, "field 'query' has 10,000,000 characters, more than 10,000"),
        ({"item_id": "i9"}, "item 'i9' is not in the items. Add it to the items, or drop the line"),
        ({"item_id": "x" * 10_000_000}, "item 'xxx"),
        ({"item_id": None}, "field 'item_id' is missing or empty. Fill it, or drop the line"),
        ({"item_id": ""}, "field 'item_id' is missing or empty"),
        ({"item_id": "i1"}, "the pair of query 'shoes' and item 'i1' appears twice (first: "),
        ({"item_id": "i2", "query": "other"}, "query 'q1' is 'other' here, but was 'shoes'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_judgments(tmp_path, change, message):
    path = write_rows(tmp_path / "j.jsonl", [GOOD, GOOD | change])
    with pytest.raises(InputError) as caught:
        read_judgments(path, ITEMS, 3)
    check(caught, f"{path}, line 2: ", message)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ('{"query": "a"\n', ", line 1", "not JSON"),
        (json.dumps(GOOD) + "\n" + '{"query": \n', ", line 2", "not JSON"),
        ("", "", "the file has no judgments"),
        ("\n\n", "", "the file has no judgments"),
        ("[]\n", ", line 1", "an array, not an object"),
    ],
)
def test_broken_lines(tmp_path, text, where, message):
    path = tmp_path / "j.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_judgments(path, ITEMS, 3)
    check(caught, f"{path}{where}: ", message)


def test_traffic(tmp_path):
    rows = [{"query": "a"}, {"query": "b", "query_id": 4, "items": ["i1", "i2"]}]
    path = write_rows(tmp_path / "t.jsonl", rows)
    assert read_traffic(path, ITEMS) == [TrafficQuery("a", "a"), TrafficQuery("4", "b", ("i1", "i2"))]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": ""}, "field 'query' is empty"),
        ({"query": "a", "items": "i1"}, "field 'items' is not a non-empty list of items"),
        ({"query": "a", "items": {"i1": 1}}, "field 'items' is not a non-empty list of items"),
        ({"query": "a", "items": ["i1", "i9"]}, "item 'i9' is not in the items"),
    ],
)
def test_bad_traffic(tmp_path, row, message):
    path = write_rows(tmp_path / "t.jsonl", [{"query": "fine"}, row])
    with pytest.raises(InputError) as caught:
        read_traffic(path, ITEMS)
    check(caught, f"{path}, line 2: ", message)


def test_a_query_in_training_and_dev_part():
    train, dev = [JudgedQuery("1", "Red  Shoes", ("i1",), (0,))], [JudgedQuery("9", "red shoes", ("i2",), (1,))]
    check_disjoint(train, [JudgedQuery("1", "other", ("i1",), (0,))], where="dev.jsonl")
    with pytest.raises(InputError) as caught:
        check_disjoint(train, dev, where="dev.jsonl")
    check(caught, "dev.jsonl: ", "query 'red shoes' is also in the training part")


# ---- splits

query_texts = st.lists(st.sampled_from(["a", "A", " a b", "a  b", "c", "d", "e", "f", "g"]), min_size=4, max_size=20)


@laws
@given(texts=query_texts, share=st.floats(0.05, 0.85), seed=st.integers(0, 999))
def test_hold_out_laws(texts, share, seed):
    queries = [JudgedQuery(f"q{n}", text, ("i1",), (0,)) for n, text in enumerate(texts)]
    try:
        rest, held = hold_out(queries, share, seed)
    except InputError as err:
        assert "[data] dev_share: " in str(err)
        return
    assert rest and held
    assert sorted([*rest, *held], key=queries.index) == queries
    assert [rest, held] == [sorted(part, key=queries.index) for part in (rest, held)]
    check_disjoint(rest, held, where="dev")  # no query under two ids on both sides
    assert hold_out(queries, share, seed) == (rest, held)


def test_hold_out_of_distinct_queries_has_the_size_asked_for():
    queries = [JudgedQuery(f"q{n}", f"query {n}", ("i1",), (0,)) for n in range(50)]
    parts = [hold_out(queries, 0.2, seed) for seed in range(5)]
    assert [len(held) for _, held in parts] == [10] * 5
    assert len({tuple(q.query_id for q in held) for _, held in parts}) == 5
    with pytest.raises(InputError, match="traffic_share: 1 judged queries cannot be split"):
        hold_out(queries[:1], 0.5, 0, key="traffic_share")


ids = st.lists(st.sampled_from(sorted(ITEMS)), max_size=6, unique=True).map(tuple)


@laws
@given(
    judged=st.lists(st.tuples(st.sampled_from(["text 1", "text 2", "x"]), ids), max_size=4),
    traffic=st.lists(st.tuples(st.sampled_from(["Text  1", "text 3", "y text"]), ids), max_size=5),
)
def test_calibration_pairs_share_neither_query_nor_item_with_what_was_judged(judged, traffic):
    known = [JudgedQuery(str(n), q, i, (0,) * len(i)) for n, (q, i) in enumerate(judged)]
    held = [TrafficQuery(str(n), q, i) for n, (q, i) in enumerate(traffic)]
    used = {i for q in known for i in q.item_ids}
    texts = {q.query.lower() for q in known}
    both = retrieve_for_traffic(held, {same_text(q.query) for q in known}, used, ITEMS, depth=4, index=Bm25Index)
    parts = dict(zip((False, True), both, strict=True))
    for trained, pairs in parts.items():
        for query, item_ids in pairs:
            assert item_ids
            assert " ".join(query.query.lower().split()) not in texts
            assert all((i in used) == trained for i in item_ids)
            if query.item_ids:
                assert set(item_ids) <= set(query.item_ids)
            else:
                assert len(item_ids) <= 4
    given_ = [q for q in held if q.item_ids and " ".join(q.query.lower().split()) not in texts]
    kept = {id(q): 0 for q in given_}
    for pairs in parts.values():
        for query, item_ids in pairs:
            if id(query) in kept:
                kept[id(query)] += len(item_ids)
    assert all(kept[id(q)] == len(q.item_ids) for q in given_)  # every named item is on one of the two sides


@laws
@given(
    retrieved=st.lists(st.lists(st.integers(0, 39), max_size=8, unique=True), max_size=12),
    judged=st.integers(0, 40),
    pairs=st.integers(1, 40),
)
def test_items_are_set_aside_until_there_are_pairs_enough(retrieved, judged, pairs):
    familiar = [(TrafficQuery(str(n), str(n)), tuple(f"i{i}" for i in ids)) for n, ids in enumerate(retrieved)]
    used = {f"i{n}" for n in range(judged)}
    apart = choose_calibration_items(familiar, used, pairs=pairs)
    made = sum(i in apart for _, ids in familiar for i in ids)
    assert len(apart) <= judged // 10 and apart <= {i for _, ids in familiar for i in ids}
    assert choose_calibration_items(familiar, used, pairs=pairs + 5) >= apart  # the same ones come first
    there_are = len({i for _, ids in familiar for i in ids})
    assert made >= pairs or len(apart) == min(judged // 10, there_are)
    assert not apart or made - max(sum(i in ids for _, ids in familiar) for i in apart) < pairs  # none too many


def test_pairs_without_some_items():
    queries = [JudgedQuery("1", "x", ("i1", "i2"), (0, 2), "s"), JudgedQuery("2", "y", ("i1",), (1,))]
    assert leave_out_items(queries, {"i1"}) == [JudgedQuery("1", "x", ("i2",), (2,), "s")]
    assert leave_out_items(queries, {"i9"}) == queries


def test_the_query_and_the_slice_0_have_a_name(tmp_path):
    rows = [{"query_id": 0, "query": "a", "item_id": "i", "grade": 1, "slice": 0},
            {"query_id": "", "query": "b", "item_id": "i", "grade": 1}]  # fmt: skip
    (path := tmp_path / "j.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_judgments(path, {"i": Item("i", "text", "")}, 2)
    assert [(query.query_id, query.slice) for query in found] == [("0", "0"), ("b", "")]
    assert read_traffic(path, {})[0].query_id == "0"


def test_digest_does_not_depend_on_the_order_of_the_file():
    a, b = JudgedQuery("1", "x", ("i1",), (0,)), JudgedQuery("2", "y", ("i2",), (1,))
    assert digest_records([a, b]) == digest_records([b, a]) != digest_records([a])
    assert digest_records([a]) != digest_records([JudgedQuery("1", "x", ("i1",), (1,))])
