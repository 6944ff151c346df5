"""Judged parts and TREC files: what is read, what is refused, and what comes back."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from darl_opensearch.errors import InputError, UsageError
from tests.helpers.bundles import ITEMS
from tests.helpers.files import write_rows
from tests.helpers.judged import GRADED, write_judgments
from trainer.evaluate.parts import parse_parts, read_catalogue, read_part
from trainer.evaluate.trec import match_ids, read_run, write_qrels, write_run


def test_names_of_parts():
    assert parse_parts(["a/test.jsonl"]) == (("id", Path("a/test.jsonl")),)
    assert parse_parts(["a/x=y.jsonl"]) == (("id", Path("a/x=y.jsonl")),)  # a path, not a name
    assert parse_parts(["new=b", "id=a"]) == (("id", Path("a")), ("new", Path("b")))
    assert parse_parts(["a", "ood=b"]) == (("id", Path("a")), ("ood", Path("b")))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["a", "b"], "--judgments: two files are given for the part 'id'. Write --judgments NAME=FILE"),
        (["ood=a", "ood=b"], "two files are given for the part 'ood'"),
        (["ood=a"], "--judgments: no part is named 'id'. Write id=FILE"),
    ],
)
def test_names_that_do_not_part(words, what):
    with pytest.raises(UsageError) as error:
        parse_parts(words)
    assert what in str(error.value)


@pytest.fixture
def items(tiny, tmp_path):
    return read_catalogue([write_rows(tmp_path / "items.jsonl", ITEMS)], tiny.renderer)


def test_items_of_two_files(tiny, tmp_path):
    first, rest = write_rows(tmp_path / "a", ITEMS[:2]), write_rows(tmp_path / "b", ITEMS[2:])
    assert list(read_catalogue([first, rest], tiny.renderer)) == [item["id"] for item in ITEMS]
    with pytest.raises(InputError, match="item 'b-1' is also in another items file. Keep one of the two"):
        read_catalogue([first, write_rows(tmp_path / "c", ITEMS)], tiny.renderer)


def test_items_of_a_query_are_shuffled_by_the_seed(items, tmp_path):
    path = write_judgments(tmp_path / "j.jsonl", GRADED)
    one, again, other = (read_part("id", path, items, 3, seed=seed) for seed in (0, 0, 1))
    assert one.queries == again.queries != other.queries
    listed = [item["id"] for item in ITEMS]
    assert any(list(query.item_ids) != listed for query in one.queries)
    for query, (query_id, _, slice_name, grades) in zip(one.queries, GRADED, strict=True):
        assert query.query_id == query_id
        assert dict(zip(query.item_ids, query.grades, strict=True)) == dict(zip(listed, grades, strict=True))
        rows = slice(6 * one.queries.index(query), 6 * one.queries.index(query) + 6)
        assert one.item_ids[rows] == query.item_ids and tuple(one.grades[rows]) == query.grades
        assert set(one.slices[rows]) == {slice_name}
    assert (len(one), one.n_queries) == (24, 4)


def test_the_items_slice_stands_in_for_the_querys(items, tmp_path):
    part = read_part("id", write_judgments(tmp_path / "j.jsonl", [("q", "x", "", (0,) * 6)]), items, 3, seed=0)
    kinds = {item["id"]: item["kind"] for item in ITEMS}
    assert part.slices == tuple(kinds[item_id] for item_id in part.item_ids)


# ---- TREC files

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@given(ranked=st.dictionaries(ids, st.lists(ids, min_size=1, max_size=5, unique=True), min_size=1, max_size=4))
def test_a_run_comes_back_whatever_the_ids(tmp_path_factory, ranked):
    path = tmp_path_factory.mktemp("trec") / "run"
    names = {*ranked, *(item for items in ranked.values() for item in items)}
    assume(not any(unquote(name) in names - {name} for name in names))
    write_run(path, ranked, tag="my model")
    run = match_ids(read_run(path), names, names)
    assert {query_id: [item for item, _ in found] for query_id, found in run.items()} == ranked


@pytest.mark.parametrize(
    ("line", "known", "found"),
    [
        ("<dbpedia:%22Heroes%22_(album)>", ["<dbpedia:%22Heroes%22_(album)>"], "<dbpedia:%22Heroes%22_(album)>"),
        ("<dbpedia:%22Heroes%22_(album)>", ['<dbpedia:"Heroes"_(album)>'], '<dbpedia:"Heroes"_(album)>'),
        ("a%20b", ["a b"], "a b"),
        ("a%20b", ["a b", "a%20b"], "a%20b"),
        ("100%25", ["100%"], "100%"),
        ("100%", ["100%"], "100%"),
        ("x%20y", ["other"], "x%20y"),
    ],
)
def test_an_id_is_decoded_only_where_that_is_the_known_one(line, known, found, tmp_path):
    (tmp_path / "run").write_text(f"{line} Q0 {line} 1 2.0 t\n")
    assert match_ids(read_run(tmp_path / "run"), known, known) == {found: [(found, 2.0)]}


def test_two_spellings_of_an_id_stay_two(tmp_path):
    (tmp_path / "run").write_text("q Q0 a%2Fb 1 2.0 t\nq Q0 a/b 2 1.0 t\n")
    assert match_ids(read_run(tmp_path / "run"), ["q"], ["a/b"]) == {"q": [("a%2Fb", 2.0), ("a/b", 1.0)]}


def test_lines_of_files(tmp_path):
    write_run(tmp_path / "run", {"a b": ["100%", "y"]}, tag="m")
    assert (tmp_path / "run").read_text() == "a%20b Q0 100%25 1 2 m\na%20b Q0 y 2 1 m\n"
    write_qrels(tmp_path / "qrels", {"q": {"x": 2, "y": 0}})
    assert (tmp_path / "qrels").read_text() == "q 0 x 2\nq 0 y 0\n"


def test_a_run_is_ordered_by_score_then_rank(tmp_path):
    (tmp_path / "run").write_text("q Q0 low 1 .5 t\n\nq Q0 third 3 2e0 t\nq\tQ0 second 2 2 t\r\nq Q0 top 9 7 t\n")
    assert read_run(tmp_path / "run") == {"q": [("top", 7.0), ("second", 2.0), ("third", 2.0), ("low", 0.5)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 2.0 t\nq Q0 b 2 1.0\n", "line 2: 5 columns instead of 6. Write query_id Q0 item_id rank score tag."),
        ("q Q0 a 1 high t\n", "line 1: the score 'high' is not a number. Write query_id Q0"),
        ("q Q0 a first 1 t\n", "line 1: the rank 'first' is not a number."),
        ("q Q0 a 1 nan t\n", "line 1: the score 'nan' is not a number."),
        ("q Q0 a 1 2 t\nq Q0 a 2 1 t\n", "line 2: item 'a' appears twice for query 'q' (first: line 1). Keep one"),
        (" \n\n", "the file is empty. Write query_id Q0 item_id rank score tag, one item per line."),
    ],
)
def test_runs_that_are_none(tmp_path, text, message):
    path = tmp_path / "r.trec"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_run(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_runs_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        read_run(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(b"q Q0 \xff 1 1 t" + os.linesep.encode())
    with pytest.raises(InputError, match="not UTF-8 at byte 6. Use a TREC run file"):
        read_run(tmp_path / "bytes")
