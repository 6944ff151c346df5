"""Hard negatives: what is judged is never one, what scores like a positive neither."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery, read_judgments
from tests.helpers.bundles import ITEMS
from tests.helpers.files import read_rows, write_rows
from trainer.data.mining import Miner, MiningRule

CATALOGUE = {f"i{n}": Item(f"i{n}", f"text {n}", "") for n in range(20)}
RANKED = [f"i{n}" for n in range(20)]


def judged(*pairs, query="q", query_id="q1", slice_=""):
    return JudgedQuery(query_id, query, tuple(i for i, _ in pairs), tuple(g for _, g in pairs), slice_)


def mined(queries, rule, score=None, ranked=RANKED):
    miner = Miner(CATALOGUE, lambda query, size: ranked[:size], rule, score)
    return [(m.query.query_id, m.item_id, m.rank) for m in miner.mine(queries)], miner.counts


@settings(deadline=None)
@given(
    known=st.dictionaries(st.sampled_from(RANKED), st.integers(0, 2), min_size=1, max_size=8),
    depth=st.integers(2, 25), skip=st.integers(0, 1), count=st.integers(1, 6), seed=st.integers(0, 9),
)  # fmt: skip
def test_laws(known, depth, skip, count, seed):
    rule = MiningRule(depth=depth, skip_top=skip, per_query=count, seed=seed)
    found, counts = mined([judged(*known.items())], rule)
    open_ = [item for rank, item in enumerate(RANKED[:depth], 1) if item not in known and rank > skip]
    assert len(found) == min(count, len(open_)) == counts.mined
    assert {item for _, item, _ in found} <= set(open_)
    assert [rank for *_, rank in found] == sorted(RANKED.index(item) + 1 for _, item, _ in found)
    assert mined([judged(*known.items())], rule)[0] == found


def test_the_first_hits_are_skipped_by_rank():
    found, _ = mined([judged(("i1", 2))], MiningRule(depth=5, skip_top=3, per_query=9))
    assert [item for _, item, _ in found] == ["i3", "i4"]


def test_an_item_that_the_index_holds_twice_is_mined_once():
    found, counts = mined([judged(("i1", 2))], MiningRule(per_query=9), ranked=["i2", "i1", "i2", "i1", "i3"])
    assert [(item, rank) for _, item, rank in found] == [("i2", 1), ("i3", 5)] and counts.judged == 1


def test_a_draw_does_not_depend_on_other_queries():
    one, two = judged(("i1", 2)), judged(("i2", 2), query="r", query_id="q2")
    rule = MiningRule(per_query=3, seed=4)
    alone = mined([two], rule)[0]
    assert mined([one, two], rule)[0][3:] == alone
    drawn = {tuple(mined([two], MiningRule(per_query=3, seed=seed))[0]) for seed in range(9)}
    assert len(drawn) > 1


def test_what_is_judged_for_the_text_is_judged_for_each_of_its_queries():
    both = [judged(("i0", 2)), judged(("i1", 0), query=" Q ", query_id="q2")]
    found, counts = mined(both, MiningRule(depth=3, per_query=9))
    assert found == [("q1", "i2", 3), ("q2", "i2", 3)] and counts.judged == 4


def test_positive_aware():
    """The best two items score .8 and .6: nothing above .6 · .5 stays. Grade 1 is not the highest."""
    scores = {"text 0": 0.8, "text 1": 0.6, "text 2": 0.1, "text 3": 0.3, "text 4": 0.31, "text 5": 0.9, "text 6": 0.0}
    asked = []

    def score(query, texts):
        asked.append((query, texts))
        return [scores[text] for text in texts]

    query = judged(("i0", 2), ("i1", 2), ("i2", 1))
    found, counts = mined([query], MiningRule(depth=7, per_query=9, max_share=0.5), score)
    assert [item for _, item, _ in found] == ["i3", "i6"]
    assert (counts.too_close, counts.judged, counts.without_positive) == (2, 3, 0)
    assert asked == [("q", [f"text {n}" for n in (0, 1, 3, 4, 5, 6)])]


def test_without_a_positive_there_is_nothing_to_compare_with():
    found, counts = mined([judged(("i0", 0))], MiningRule(), lambda query, texts: [0.0] * len(texts))
    assert (found, counts.without_positive, counts.without_negative, counts.queries) == ([], 1, 1, 0)
    assert len(mined([judged(("i0", 0))], MiningRule())[0]) == 4


def test_hits_that_are_no_items_are_counted():
    found, counts = mined([judged(("i0", 1))], MiningRule(), ranked=["gone", "i5"])
    assert (found, counts.unknown, counts.hits) == ([("q1", "i5", 2)], 1, 2)


def test_an_index_of_other_items_is_an_error():
    with pytest.raises(InputError, match=r"none of the 2 hits is one of the items, such as 'h'. Search an index that"):
        mined([judged(("i0", 1))], MiningRule(), ranked=["g", "h", "g"])
    with pytest.raises(InputError, match="none of the 1 hits is one of the items, such as 'I5'. There is 'i5'"):
        mined([judged(("i0", 1))], MiningRule(), ranked=["I5"])
    assert mined([judged(("i0", 1))], MiningRule(), ranked=[])[0] == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"depth": 0}, "depth is 0. Give 1 to 10000"),
        ({"per_query": 0}, "per_query is 0"),
        ({"depth": 3, "skip_top": 3}, "skip_top is 3. Set it below the depth of 3"),
        ({"max_share": 0.0}, "max_share is 0.0"),
        ({"max_share": float("nan")}, "max_share is nan"),
    ],
)
def test_rules_that_cannot_be(rule, message):
    with pytest.raises(UsageError, match=message):
        MiningRule(**rule)


# darl mine

JUDGED = [("q1", "stolen bicycle", "b-1", 2), ("q1", "stolen bicycle", "t-2", 0), ("q2", "lost luggage", "t-2", 2)]


@pytest.fixture
def project(tmp_path):
    write_rows(tmp_path / "items.jsonl", ITEMS)
    rows = [dict(zip(("query_id", "query", "item_id", "grade"), row, strict=True)) for row in JUDGED]
    write_rows(tmp_path / "judgments.jsonl", [rows[0] | {"slice": "bicycle"}, *rows[1:]])
    (tmp_path / "darl.toml").write_text(
        '[model]\nname = "tiny"\n[data]\nitems = "items.jsonl"\njudgments = "judgments.jsonl"\n'
        '[grades]\nnames = ["irrelevant", "related", "fits"]\n[template]\nfields = ["=name", "kind", "cover"]\n'
    )
    return tmp_path


def test_the_command_mines_by_bm25(project, darl):
    out = project / "mined.jsonl"
    said = darl("mine", project / "darl.toml", "--out", out, "--json")
    assert said.code == 0, said.err
    rows = read_rows(out)
    result = json.loads(said.out)
    assert result["mined"] == len(rows) > 0 and result["file"] == str(out)
    assert all(row["grade"] == 0 and row["mined"] is True for row in rows)
    pairs = {(row["query_id"], row["item_id"]) for row in rows}
    # "stolen" is in the ski week too, and "lost luggage" as well.
    assert {("q1", "t-1"), ("q2", "t-1")} <= pairs and not pairs & {("q1", "b-1"), ("q1", "t-2"), ("q2", "t-2")}
    assert {row.get("slice") for row in rows if row["query_id"] == "q1"} == {"bicycle"}


def test_with_the_judgments_the_file_takes_their_place(project, darl):
    out = project / "all.jsonl"
    said = darl("mine", project / "darl.toml", "--out", out, "--with-judged")
    assert said.code == 0 and f'Next: in darl.toml, [data] judgments = "{out}"' in said.out
    assert read_rows(out)[:3] == read_rows(project / "judgments.jsonl")
    items = {item["id"]: Item(item["id"], "x", "") for item in ITEMS}
    queries = read_judgments(out, items, 3)
    assert Counter(q.query_id for q in queries) == {"q1": 1, "q2": 1}


def test_with_a_bundle_what_it_likes_stays_out(project, tiny, darl):
    out = project / "mined.jsonl"
    strict = ["mine", project / "darl.toml", "--out", out, "--bundle", tiny.path, "--json", "--max-share"]
    most = json.loads(darl(*strict, "1").out)
    assert most["mined"] and all(0 <= row["score"] <= 1 for row in read_rows(out))
    least = json.loads(darl(*strict, "0.01").out)
    assert least["mined"] == 0 and least["too_close"] == most["mined"] + most["too_close"]
    assert out.read_text() == ""


def test_nothing_is_written_by_a_dry_run_or_over_what_is_read(project, darl):
    config = (project / "darl.toml").read_text()
    (project / "darl.toml").write_text(config.replace("[data]\n", '[data]\ndev = "dev.jsonl"\n'))
    before = {p.name: p.read_bytes() for p in project.iterdir()}
    for out in (["--out", project / "x.jsonl"], []):
        said = darl("mine", project / "darl.toml", *out, "--dry-run")
        assert said.code == 0 and said.out.endswith("Nothing was written.\n")
    said = darl("mine", project / "darl.toml")
    assert said.code == 2 and "no output file is given. Pass --out or --dry-run" in said.err
    said = darl("mine", project / "darl.toml", "--out", project / "judgments.jsonl")
    assert said.code == 2 and "the output file is also an input. Choose another with --out" in said.err
    (project / "sub").mkdir()
    roundabout = project / "sub/../judgments.jsonl"  # as a configuration in a folder of its own names them
    said = darl("mine", project / "darl.toml", "--out", roundabout)
    assert said.code == 2 and "the output file is also an input" in said.err
    (project / "sub").rmdir()
    said = darl("mine", project / "darl.toml", "--out", project / "dev.jsonl")
    assert said.code == 2 and "the output file is also an input" in said.err  # by the training
    said = darl("mine", project / "darl.toml", "--out", project / "x.jsonl", "--index", "i",
                    "--url", "http://127.0.0.1:9")  # fmt: skip
    assert said.code == 1 and "127.0.0.1:9" in said.err
    assert before == {p.name: p.read_bytes() for p in project.iterdir()}
