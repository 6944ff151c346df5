"""What two parts share is found, by closed forms and against all pairs."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darl_opensearch.errors import InputError, MissingExtra, UsageError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from tests.helpers.files import write_rows
from trainer.data import leakage
from trainer.data.leakage import (
    PERMUTATIONS,
    Located,
    Part,
    bands,
    check_leakage,
    find_leaks,
    find_near_duplicates,
    jaccard,
    shingles,
)

ITEM_TEXTS = {
    "a": "the quick brown fox jumps over the lazy dog in the morning sun",
    "b": "the quick brown fox jumps over the lazy dog in the morning rain",
    "c": "an entirely different thing that shares no run of words with it",
}
TRAIN = [("red running shoes for men size ten", "a"), ("rain coat", "a")]
OTHER = [("Red  running shoes for men size TEN", "a"), ("size ten red shoes running for men", "b"),
         ("blue boots", "c")]  # fmt: skip


def judgments(path, rows):
    return write_rows(path, [{"query": q, "item_id": i, "grade": 1} for q, i in rows])


@pytest.fixture
def files(tmp_path):
    items = write_rows(tmp_path / "items.jsonl", [{"id": key, "text": text} for key, text in ITEM_TEXTS.items()])
    return judgments(tmp_path / "train.jsonl", TRAIN), judgments(tmp_path / "test.jsonl", OTHER), items


def parts(files, items=False):
    texts = leakage.read_item_texts([files[2]]) if items else None
    return Part.of_file(files[0], texts), Part.of_file(files[1], texts)


def test_shingles_and_their_similarity():
    assert shingles("A b  C d", 3) == {"a b c", "b c d"}
    assert shingles("a b", 3) == {"a b"} and shingles("", 3) == {""}
    assert jaccard(shingles("a b c d", 1), shingles("b c d e", 1)) == 3 / 5


def test_every_kind_is_found(files):
    report = find_leaks(*parts(files, items=True))
    # Items a and b have eleven runs of three words each, ten of them in common: 10 / 12.
    assert report.counts == {"query": 1, "near-query": 1, "item": 1, "near-item": 1}
    assert report.examples["near-item"].similarity == 10 / 12
    assert report.examples["near-query"].similarity == 1
    assert report.examples["query"].other.where == f"{files[1]}, line 1"
    assert find_leaks(*parts(files)).counts == {"query": 1, "near-query": 1}
    assert find_leaks(*parts(files, items=True), threshold=0.9).counts["near-item"] == 0


@pytest.mark.parametrize(
    ("allow", "kind", "where", "what"),
    [
        ((), "query", "test.jsonl, line 1", "is the same query text as 'red running"),
        (("query",), "near-query", "test.jsonl, line 2", "is a query with nearly the same words as 'red running"),
        (("query", "near-query"), "item", "items.jsonl, line 1", "is the same item as 'the quick brown"),
        (("query", "near-query", "item"), "near-item", "items.jsonl, line 2", "Jaccard 0.83)"),
    ],
)
def test_what_is_not_allowed_names_both_places(allow, kind, where, what, files):
    with pytest.raises(InputError) as caught:
        check_leakage(*parts(files, items=True), allow=allow)
    assert caught.value.where.endswith(where) and what in str(caught.value)
    assert ("train.jsonl, line 1" if "query" in kind else "items.jsonl, line 1") in caught.value.what
    assert ("omit --new-items" if kind == "item" else f"--allow {kind}") in caught.value.todo


def test_what_is_allowed_is_counted(files):
    report = check_leakage(*parts(files, items=True), allow=("query", "near-query", "item", "near-item"))
    assert sum(report.counts.values()) == 4
    with pytest.raises(UsageError, match=r"unknown kind of leak 'queries'. Did you mean 'query'\?"):
        check_leakage(*parts(files), allow=("queries",))


def test_judged_queries_in_memory():
    items = {key: Item(key, text, "") for key, text in ITEM_TEXTS.items()}
    train = Part.of_judged("train.jsonl", [JudgedQuery("q1", "rain coat", ("a",), (1,))], items)
    other = Part.of_judged("dev.jsonl", [JudgedQuery("q2", "coat rain", ("b",), (1,))], items)
    assert find_leaks(train, other).counts == {"query": 0, "near-query": 1, "item": 0, "near-item": 1}
    with pytest.raises(InputError, match=r"dev.jsonl, query 'q2': 'coat rain' .* \(train.jsonl, query 'q1'\)"):
        check_leakage(train, other)


def test_broken_judgments_and_items(tmp_path):
    file = write_rows(tmp_path / "x.jsonl", [{"query": " ", "item_id": "a"}])
    with pytest.raises(InputError, match="x.jsonl, line 1: field 'query' is empty"):
        Part.of_file(file)
    with pytest.raises(InputError, match="x.jsonl, line 1: item 'a' is not in the items. Add it to the --items file"):
        Part.of_file(write_rows(tmp_path / "x.jsonl", [{"query": "q", "item_id": "a"}]), {})
    with pytest.raises(InputError, match="i.jsonl, line 1: the item has no 'id'"):
        leakage.read_item_texts([write_rows(tmp_path / "i.jsonl", [{"text": "a"}])])
    with pytest.raises(InputError, match="i.jsonl, line 1: the item has none of the template's fields .title"):
        leakage.read_item_texts([write_rows(tmp_path / "i.jsonl", [{"id": 1, "text": "a"}])], ("title",))


@given(threshold=st.floats(0.1, 1))
def test_bands_keep_their_bound(threshold):
    """At the threshold at most one pair of a hundred is missed; one hash more a band would miss more."""
    count, rows = bands(threshold)
    assert count >= 2 and count * rows <= PERMUTATIONS
    assert (1 - threshold**rows) ** count <= 0.01
    longer = rows + 1
    assert longer > PERMUTATIONS // 2 or (1 - threshold**longer) ** (PERMUTATIONS // longer) > 0.01


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_thresholds_that_are_none(threshold):
    with pytest.raises(UsageError, match="threshold is"):
        list(find_near_duplicates([], [], kind="near-query", size=1, threshold=threshold))


WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None, max_examples=50)
@given(train=st.lists(WORDS, max_size=8), other=st.lists(WORDS, max_size=4), threshold=st.sampled_from([0.5, 0.8, 1.0]))
def test_against_all_pairs(train, other, threshold):
    """Nothing is reported that is not at the threshold, and what has the very same words is always found."""
    left = [Located(f"t{n}", text, f"line {n}") for n, text in enumerate(train)]
    right = [Located(f"o{n}", text, f"line {n}") for n, text in enumerate(other)]
    found = {
        leak.other.key: leak
        for leak in find_near_duplicates(left, right, kind="near-query", size=1, threshold=threshold)
    }
    for text in right:
        best = max((jaccard(shingles(text.text, 1), shingles(t.text, 1)) for t in left), default=0.0)
        if best == 1:
            assert found[text.key].similarity == 1
        if text.key in found:
            assert threshold <= found[text.key].similarity <= best


def test_without_datasketch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(MissingExtra, match=r"datasketch is not installed. Run: .*'darl-opensearch\[train\]'"):
        list(find_near_duplicates([], [], kind="near-query", size=1))


# darl leakage


def test_nothing_is_not_clean(files, tmp_path, darl):
    (empty := tmp_path / "empty.jsonl").write_text("\n")
    for pair in ((files[0], empty), (empty, files[0])):
        said = darl("leakage", *pair, "--json")
        assert (said.code, said.out) == (1, "") and "empty.jsonl: the file has no judgments. Write one" in said.err


def test_an_item_of_two_files_has_one_text(files, tmp_path):
    again = write_rows(tmp_path / "again.jsonl", [{"id": "a", "text": ITEM_TEXTS["a"]}])
    assert leakage.read_item_texts([files[2], again])["a"].where == f"{files[2]}, line 1"
    write_rows(again, [{"id": "a", "text": "another"}])
    with pytest.raises(InputError, match=r"again.jsonl, line 1: item 'a' appears twice \(first: .*items.jsonl, line"):
        leakage.read_item_texts([files[2], again])


def test_the_command_ends_with_three_and_names_both(files, darl):
    said = darl("leakage", files[0], files[1], "--json")
    assert said.code == 3
    result = json.loads(said.out)
    assert result["clean"] is False and result["compared"][0]["counts"] == {"query": 1, "near-query": 1}
    assert "test.jsonl, line 1: 'Red running" in said.err and "train.jsonl, line 1" in said.err
    allowed = ["--allow", "query", "--allow", "near-query"]
    said = darl("leakage", files[0], files[1], *allowed)
    assert said.code == 0 and said.out.endswith("test.jsonl: query 1, near-query 1\n")
    said = darl("leakage", files[0], files[1], *allowed, "--items", files[2], "--new-items")
    assert said.code == 3 and "is the same item as" in said.err
    said = darl("leakage", files[0], files[1], *allowed, "--items", files[2])
    assert said.code == 3 and "another item with nearly the same text" in said.err
    said = darl("leakage", files[0], files[1], "--new-items")
    assert said.code == 2 and "--new-items requires items. Pass their file with --items." in said.err


def test_items_may_lie_in_several_files(files, darl):
    lines = files[2].read_text().splitlines(keepends=True)
    halves = [files[2].with_name(name) for name in ("one.jsonl", "two.jsonl")]
    halves[0].write_text(lines[0])
    halves[1].write_text("".join(lines[1:]))
    both = [word for half in halves for word in ("--items", half)]
    said = darl("leakage", files[0], files[1], *both, "--json")
    assert json.loads(said.out)["compared"][0]["counts"] == {"query": 1, "near-query": 1, "item": 1, "near-item": 1}
    said = darl("leakage", files[0], files[1], "--items", halves[0])
    assert (
        said.code == 1 and "test.jsonl, line 2: item 'b' is not in the items. Add it to the --items file." in said.err
    )
