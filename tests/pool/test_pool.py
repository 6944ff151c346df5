"""Pools through the local engine: what is read, what comes out, what is refused."""

from __future__ import annotations

import gzip
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import darl_opensearch.pool.source as source_module
from darl_opensearch.check import run_pairs
from darl_opensearch.errors import BundleError, DarlError, InputError, UsageError
from darl_opensearch.pool import score_pool
from darl_opensearch.pool.catalogue import ItemTexts
from darl_opensearch.pool.formats import encode_scores
from darl_opensearch.pool.pairs import Pair, Shard, group_pairs
from darl_opensearch.pool.work import ShardFolder
from darl_opensearch.pool.worker import PoolJob, ShardScorer
from darl_opensearch.scores import Scores
from darl_opensearch.scoring import Scorer
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE, tiny_bundle
from tests.helpers.files import write_rows

FLOATS = ("score", "grade_probs", "ood_score", "ood_distance")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score(tiny, pool, out, **options):
    return score_pool(tiny.path, pool / "pairs.jsonl", out=out, **{"items": pool / "items.jsonl", **options})


# ---- what comes out


def test_each_pair_once_in_order_with_the_scorers_own_answer(tiny, pool, tmp_path):
    report = score(tiny, pool, tmp_path / "s.jsonl", features=tmp_path / "f.npy", shard_pairs=8)
    given_rows, rows = lines(pool / "pairs.jsonl"), lines(tmp_path / "s.jsonl")
    assert [row["pair"] for row in rows] == list(range(61))
    for name in ("query", "item_id", "query_id"):
        assert [row[name] for row in rows] == [row[name] for row in given_rows]
    texts = {item["id"]: tiny.renderer(item) for item in ITEMS}
    with Scorer.open(tiny, threads=1) as scorer:
        for row in rows:
            alone = scorer.score(row["query"], [texts[row["item_id"]]])
            flat = [row["score"], *row["grade_probs"], row["ood_score"], row["ood_distance"]]
            np.testing.assert_allclose(flat, alone.data[0], rtol=0, atol=1e-6)
            assert row["grade"] == alone.grade[0]
    features = np.load(tmp_path / "f.npy", mmap_mode="r")
    pairs = [(row["query"], texts[row["item_id"]]) for row in rows]
    alone = run_pairs(tiny.file("features.onnx"), tiny.tokenizer, pairs)
    assert features.dtype == np.float32 and features.shape == alone.shape
    np.testing.assert_allclose(features, alone, rtol=0, atol=1e-6)
    assert report.to_json() == {
        "pairs": 61,
        "shards": 8,
        "reused": 0,
        "out": str(tmp_path / "s.jsonl"),
        "features": str(tmp_path / "f.npy"),
        "feature_width": features.shape[1],
        "without_text": 0,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.npy", "s.jsonl"]  # nothing is left of the work


def test_every_format_holds_the_same_numbers(tiny, pool, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("s.jsonl", "s.jsonl.gz", "s.parquet"):
        score(tiny, pool, tmp_path / name, shard_pairs=16)
    rows = lines(tmp_path / "s.jsonl")
    assert gzip.decompress((tmp_path / "s.jsonl.gz").read_bytes()) == (tmp_path / "s.jsonl").read_bytes()
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table.schema.names == [
        "pair", "query_id", "query", "item_id", "slice", "score", "grade", "grade_probs", "ood_score", "ood_distance",
    ]  # fmt: skip
    assert parquet.ParquetFile(tmp_path / "s.parquet").num_row_groups == 4
    for row, read in zip(rows, table.to_pylist(), strict=True):
        assert read.pop("slice") is None
        assert read.keys() == row.keys()
        for name, value in read.items():
            same = np.float32(row[name]) == np.float32(value) if name in FLOATS else row[name] == value
            assert np.all(same), name


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=5, max_size=5))
def test_json_gives_back_the_very_float32(values):
    data = np.array([values], dtype=np.float32)
    shard = Shard(0, 0, (Pair("here", "q", "t", None, None, None),))
    row = json.loads(encode_scores(shard, Scores(data, 0.05), "jsonl"))
    flat = [row["score"], *row["grade_probs"], row["ood_score"], row["ood_distance"]]
    assert np.array_equal(np.array(flat, dtype=np.float32), data[0])


def test_features_alone_run_no_scores(tiny, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(Scorer, "open", None)
    report = score(tiny, pool, None, features=tmp_path / "f.npy")
    assert (report.out, report.pairs, np.load(tmp_path / "f.npy").shape[0]) == (None, 61, 61)


def test_threads_change_no_byte(tiny, pool, tmp_path):
    for threads in (1, 3):
        score(tiny, pool, tmp_path / f"{threads}.jsonl", threads=threads, shard_pairs=20)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "3.jsonl").read_bytes()


# ---- what is read


def test_the_three_ways_to_name_an_item_score_alike(tiny, pool, tmp_path):
    raw = {item["id"]: TEMPLATE.render(item) for item in ITEMS}
    ids = list(raw)
    forms = {
        "id": [{"query": QUERIES[0], "item_id": i} for i in ids],
        "text": [{"query": QUERIES[0], "item_id": i, "text": raw[i]} for i in ids],
        "list": [{"query": QUERIES[0], "items": [ids[0], *({"item_id": i, "text": raw[i]} for i in ids[1:])]}],
    }
    results = set()
    for name, rows in forms.items():
        write_rows(tmp_path / f"{name}.jsonl", rows)
        out = tmp_path / f"{name}.out.jsonl"
        score_pool(tiny.path, tmp_path / f"{name}.jsonl", out=out, items=pool / "items.jsonl")
        results.add(out.read_text())
    assert len(results) == 1
    assert [row["item_id"] for row in map(json.loads, results.pop().splitlines())] == ids


def test_gzip_and_parquet_are_read_as_jsonl_is(tiny, pool, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = lines(pool / "pairs.jsonl")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress((pool / "pairs.jsonl").read_bytes()))
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    parquet.write_table(arrow.Table.from_pylist(ITEMS), tmp_path / "items.parquet")
    results = set()
    for pairs, items in (
        (pool / "pairs.jsonl", pool / "items.jsonl"),
        (tmp_path / "p.jsonl.gz", tmp_path / "items.parquet"),
        (tmp_path / "p.parquet", pool / "items.jsonl"),
    ):
        score_pool(tiny.path, pairs, out=tmp_path / "out.jsonl", items=items, fresh=True)
        results.add((tmp_path / "out.jsonl").read_bytes())
    assert len(results) == 1


def test_a_long_text_is_cut_as_an_index_would_hold_it(tiny, tmp_path):
    item = {"id": "x", "name": "stolen bicycle " * 400}
    write_rows(tmp_path / "items.jsonl", [item])
    whole, indexed = TEMPLATE.render(item), tiny.renderer(item)
    assert len(indexed) < len(whole)
    rows = [
        {"query": "bicycle", "item_id": "x"},
        {"query": "bicycle", "text": whole},
        {"query": "bicycle", "text": indexed},
    ]
    write_rows(tmp_path / "p.jsonl", rows)
    score_pool(tiny.path, tmp_path / "p.jsonl", out=tmp_path / "s.jsonl", items=tmp_path / "items.jsonl", shard_pairs=1)
    assert len({row["score"] for row in lines(tmp_path / "s.jsonl")}) == 1


def test_no_more_than_one_shard_is_in_flight(tiny, tmp_path, monkeypatch):
    """Rows are pulled from the file as shards are kept: what is held never grows with the pool."""
    (tmp_path / "p.jsonl").write_text("{}\n")
    flight = {"read": 0, "kept": 0, "most": 0}

    def endless(path, *, items):
        for number in range(1000):
            flight["read"] += 1
            flight["most"] = max(flight["most"], flight["read"] - flight["kept"])
            yield Pair(f"line {number}", QUERIES[number % 5], "stolen skis", None, None, None)

    store = ShardFolder.store

    def counting(work, shard, files):
        flight["kept"] += 10
        store(work, shard, files)

    monkeypatch.setattr(source_module, "read_pairs", endless)
    monkeypatch.setattr(ShardFolder, "store", counting)
    monkeypatch.setattr(ShardFolder, "pairs", lambda work: 1000)  # as if checked before
    score_pool(tiny.path, tmp_path / "p.jsonl", out=tmp_path / "s.jsonl", shard_pairs=10)
    assert flight == {"read": 1000, "kept": 1000, "most": 10}


@given(st.integers(0, 50), st.integers(1, 9))
def test_shards_cover_a_pool_and_wait_to_be_asked(count, size):
    pulled = []

    def pairs():
        for number in range(count):
            pulled.append(number)
            yield Pair("", str(number), "t", None, None, None)

    seen = 0
    for index, shard in enumerate(group_pairs(pairs(), size)):
        assert (shard.index, shard.start) == (index, seen) and 1 <= len(shard.pairs) <= size
        assert [pair.query for pair in shard.pairs] == [str(n) for n in range(seen, seen + len(shard.pairs))]
        seen += len(shard.pairs)
        assert len(pulled) == seen
        assert pickle.loads(pickle.dumps(shard)) == shard
    assert seen == count


def test_the_catalogue_answers_more_ids_than_a_query_takes(tmp_path):
    write_rows(tmp_path / "items.jsonl", [{"id": n, "name": f"item {n}"} for n in range(1201)])
    ItemTexts.build(tmp_path / "c.sqlite", tmp_path / "items.jsonl", TEMPLATE, most_chars=6)
    with ItemTexts.open(tmp_path / "c.sqlite") as catalogue:
        texts = catalogue.texts([*(str(n) for n in range(1201)), "none"])
    assert len(texts) == 1201 and texts["7"] == "item 7" and texts["1200"] == "item 1"


# ---- what is refused

BAD = [
    ({"item_id": "b-1"}, "field 'query' is empty or not text", "add the query's text"),
    ({"query": " ", "item_id": "b-1"}, "field 'query' is empty or not text", "add the query's text"),
    ({"query": "x" * 10_001, "item_id": "b-1"}, "field 'query' has 10,001 characters", "search box"),
    ({"query": "q"}, "neither 'item_id' nor 'text' is present", "add the item"),
    ({"query": "q", "text": 3}, "field 'text' is empty or not text", "add the item's text"),
    (
        {"query": "q", "item_id": ["b-1"]},
        "field 'item_id' is ['b-1'], neither text nor a whole number",
        "write it as text",
    ),
    ({"query": "q", "item_id": "b-1", "query_id": 1.5}, "field 'query_id' is 1.5, neither", "write it as text"),
    ({"query": "q", "items": "b-1"}, "field 'items' is not a non-empty list of items", "or omit the field"),
    ({"query": "q", "items": []}, "field 'items' is not a non-empty list of items", "or omit the field"),
    ({"query": "q", "items": ["b-1"], "text": "t"}, "'items' next to 'item_id' or 'text'", "keep one of them"),
    ({"query": "q", "items": ["b-1", {"text": ""}]}, "items, number 2: field 'text' is empty", "the item's text"),
    ({"query": "q", "items": ["b-1", None]}, "items, number 2: neither 'item_id' nor 'text'", "add the item"),
    ({"query": "q", "item_id": "zz"}, "item 'zz' is not in the items", "items.jsonl, or drop the line"),
    ({"query": "q", "items": ["b-1", "zz"]}, "item 'zz' is not in the items", "items.jsonl, or drop the line"),
]


@pytest.mark.parametrize(("row", "what", "todo"), BAD)
def test_a_bad_line_is_named_before_anything_is_scored(tiny, pool, tmp_path, monkeypatch, row, what, todo):
    monkeypatch.setattr(Scorer, "open", None)
    path = write_rows(tmp_path / "p.jsonl", [{"query": "fine", "item_id": "b-1"}, row])
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        score_pool(tiny.path, path, out=tmp_path / "s.jsonl", items=pool / "items.jsonl")
    assert caught.value.where == f"{path}, line 2" and todo in caught.value.todo
    assert not (tmp_path / "s.jsonl").exists()


def test_a_corrected_line_needs_no_fresh_start(tiny, pool, tmp_path):
    """Nothing was computed for the file with the mistake: there is nothing to be protected."""
    path = write_rows(tmp_path / "p.jsonl", [{"query": "fine", "item_id": "zz"}])
    with pytest.raises(InputError, match="zz"):
        score_pool(tiny.path, path, out=tmp_path / "s.jsonl", items=pool / "items.jsonl")
    write_rows(path, [{"query": "fine", "item_id": "b-1"}])
    assert score_pool(tiny.path, path, out=tmp_path / "s.jsonl", items=pool / "items.jsonl").pairs == 1


def test_an_id_without_items_and_an_empty_pool(tiny, tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [{"query": "q", "items": [{"text": "t"}, "b-1"]}])
    with pytest.raises(InputError, match="field 'items, number 2' names item 'b-1'") as caught:
        score_pool(tiny.path, path, out=tmp_path / "s.jsonl")
    assert caught.value.where == f"{path}, line 1" and "--items" in caught.value.todo
    write_rows(path, [])
    with pytest.raises(InputError, match="it holds no pairs"):
        score_pool(tiny.path, path, out=tmp_path / "s.jsonl")


@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        ([{"id": "a", "name": "x"}, {"id": "a", "name": "y"}], 2, "item 'a' appears twice (first: "),
        ([{"name": "x"}], 1, "the item has no 'id'"),
        ([], None, "the file has no items"),
    ],
)
def test_bad_items(tiny, pool, tmp_path, rows, line, what):
    items = write_rows(tmp_path / "items.jsonl", rows)
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        score_pool(tiny.path, pool / "pairs.jsonl", out=tmp_path / "s.jsonl", items=items)
    assert caught.value.where == (f"{items}, line {line}" if line else str(items))


def test_a_file_that_is_not_parquet(tiny, tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "p.parquet").write_text("no")
    with pytest.raises(InputError, match="not Parquet"):
        score_pool(tiny.path, tmp_path / "p.parquet", out=tmp_path / "s.jsonl")


def test_a_date_that_python_does_not_know(tiny, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    at = pyarrow.array([2**62], pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"query": ["q"], "text": ["t"], "at": at}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p.parquet: not Parquet \(date value out of range\)"):
        score_pool(tiny.path, tmp_path / "p.parquet", out=tmp_path / "s.jsonl")


def test_a_pool_that_is_refused_leaves_nothing(tiny, tmp_path):
    (tmp_path / "s.jsonl").write_text("scores of last week")
    path = write_rows(tmp_path / "p.jsonl", [{"query": "q", "text": "t"}, {"query": "q"}])
    with pytest.raises(InputError, match="p.jsonl, line 2: neither 'item_id' nor 'text' is present"):
        score_pool(tiny.path, path, out=tmp_path / "s.jsonl", fresh=True)
    assert {file.name for file in tmp_path.iterdir()} == {"p.jsonl", "s.jsonl"}
    write_rows(path, [{"query": "q", "text": "t"}])
    with pytest.raises(UsageError, match="the file already exists"):
        score_pool(tiny.path, path, out=tmp_path / "s.jsonl")
    assert (tmp_path / "s.jsonl").read_text() == "scores of last week"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "no output is requested"),
        ({"out": "s.csv"}, "unknown format for scores"),
        ({"features": "f.parquet"}, "features are written as .npy"),
        ({"out": "s.jsonl", "engine": "spark"}, "engine is 'spark'"),
        ({"out": "s.jsonl", "workers": 2}, "the engine is local"),
        ({"out": "s.jsonl", "address": "auto"}, "the engine is local"),
        ({"out": "s.jsonl", "shard_pairs": 0}, "--shard-pairs must be at least 1"),
    ],
)
def test_options_that_make_no_sense(tiny, pool, tmp_path, options, what):
    paths = {key: tmp_path / value for key, value in options.items() if key in ("out", "features")}
    with pytest.raises(UsageError, match=re.escape(what)):
        score_pool(tiny.path, pool / "pairs.jsonl", **(options | paths))


def test_what_is_read_is_not_replaced(tiny, tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [{"query": "q", "text": "t"}])
    with pytest.raises(UsageError, match="would overwrite an input"):
        score_pool(tiny.path, path, out=path, fresh=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="the input cannot be read twice"):
        score_pool(tiny.path, tmp_path / "folder", out=tmp_path / "s.jsonl")


def test_a_worker_refuses_another_bundle_of_the_same_place(tiny):
    with pytest.raises(BundleError, match="this machine has another bundle") as caught:
        ShardScorer(PoolJob(tiny.path, "0" * 64, "jsonl", False))
    assert "on every machine" in caught.value.todo


# ---- going on


@pytest.fixture
def broken_off(tiny, pool, tmp_path, monkeypatch):
    """A pool that broke off in its fourth shard of eight."""

    def begin(bundle=tiny, **options):
        with monkeypatch.context() as patch:
            store = ShardFolder.store

            def failing(work, shard, files):
                if shard == 3:
                    raise DarlError("the disk is full")
                store(work, shard, files)

            patch.setattr(ShardFolder, "store", failing)
            with pytest.raises(DarlError, match="the disk is full"):
                score(bundle, pool, tmp_path / "s.jsonl", shard_pairs=8, **options)

    return begin


def test_finished_shards_are_not_computed_again(tiny, pool, tmp_path, broken_off, monkeypatch):
    score(tiny, pool, tmp_path / "whole.jsonl", features=tmp_path / "whole.npy", shard_pairs=8)
    broken_off(features=tmp_path / "f.npy")
    computed = []
    call = ShardScorer.__call__
    monkeypatch.setattr(
        ShardScorer, "__call__", lambda self, shard: (computed.append(shard.index), call(self, shard))[1]
    )
    report = score(tiny, pool, tmp_path / "s.jsonl", features=tmp_path / "f.npy", shard_pairs=8)
    assert computed == [3, 4, 5, 6, 7] and report.reused == 3
    assert (tmp_path / "s.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert (tmp_path / "f.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_changed_input_is_refused_and_fresh_starts_over(tiny, pool, tmp_path, broken_off):
    broken_off()
    out, options = tmp_path / "s.jsonl", {"items": pool / "items.jsonl", "shard_pairs": 8}
    other = write_rows(tmp_path / "other.jsonl", [*lines(pool / "pairs.jsonl"), {"query": "q", "item_id": "b-1"}])
    with pytest.raises(InputError, match="the unfinished pool here has another pairs file") as caught:
        score_pool(tiny.path, other, out=out, **options)
    assert caught.value.where == str(tmp_path / "s.jsonl.work") and "--fresh" in caught.value.todo
    with pytest.raises(InputError, match="here has another items file and another shard size"):
        score_pool(tiny.path, pool / "pairs.jsonl", out=out, items=other, shard_pairs=9)
    bundle = tiny_bundle(tmp_path / "bundle", version="2")
    with pytest.raises(InputError, match="the unfinished pool here has another bundle"):
        score_pool(bundle.path, pool / "pairs.jsonl", out=out, **options)
    with pytest.raises(InputError, match="another choice of features"):
        score_pool(tiny.path, pool / "pairs.jsonl", out=out, features=tmp_path / "f.npy", **options)
    report = score_pool(tiny.path, other, out=out, fresh=True, **options)
    assert (report.pairs, report.reused) == (62, 0) and len(lines(out)) == 62


def test_a_result_is_replaced_only_when_asked(tiny, pool, tmp_path):
    score(tiny, pool, tmp_path / "s.jsonl")
    before = (tmp_path / "s.jsonl").stat()
    with pytest.raises(UsageError, match="the file already exists") as caught:
        score(tiny, pool, tmp_path / "s.jsonl")
    assert "--fresh" in caught.value.todo and (tmp_path / "s.jsonl").stat() == before
    score(tiny, pool, tmp_path / "s.jsonl", fresh=True)
    assert (tmp_path / "s.jsonl").stat().st_ino != before.st_ino


def test_a_folder_of_something_else_is_left_alone(tiny, pool, tmp_path):
    folder = tmp_path / "s.jsonl.work"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not an unfinished pool"):
        score(tiny, pool, tmp_path / "s.jsonl", fresh=True)
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]
    (folder / "thesis.txt").rename(folder / "pool.json")
    with pytest.raises(InputError, match="damaged"):
        score(tiny, pool, tmp_path / "s.jsonl")
    (folder / "pool.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="damaged"):
        score(tiny, pool, tmp_path / "s.jsonl")
    (folder / "pool.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="has format 99, but this version reads format 1"):
        score(tiny, pool, tmp_path / "s.jsonl")


def test_two_processes_do_not_share_a_folder(tmp_path):
    with ShardFolder.claim(tmp_path / "w", {}, {}, fresh=False):
        with pytest.raises(DarlError, match="another process is working on this pool"):
            with ShardFolder.claim(tmp_path / "w", {}, {}, fresh=True):
                pass


def test_a_pool_that_changes_under_way_is_not_joined(tiny, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "p.jsonl", [{"query": "q", "text": "t"}])
    store = ShardFolder.store

    def meddling(work, shard, files):
        write_rows(path, [{"query": "q", "text": "t"}] * 2)
        store(work, shard, files)

    monkeypatch.setattr(ShardFolder, "store", meddling)
    with pytest.raises(InputError, match="changed during scoring"):
        score_pool(tiny.path, path, out=tmp_path / "s.jsonl")
    assert not (tmp_path / "s.jsonl").exists()


def test_items_without_text_end_the_run_only_where_a_pair_names_one(tiny, tmp_path, darl):
    blank = {"id": "blank", "name": "", "kind": None, "cover": " "}
    items = write_rows(tmp_path / "items.jsonl", [blank, *ITEMS])
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"query": "bike", "item_id": ITEMS[0]["id"]}])
    said = darl("score", tiny.path, pairs, "--items", items, "--out", tmp_path / "s.jsonl", "--json")
    assert said.err == "warning: passed over: 1 item without text, which no pair names\n"
    assert (json.loads(said.out)["pairs"], json.loads(said.out)["without_text"]) == (1, 1)
    write_rows(pairs, [{"query": "bike", "item_id": item["id"]} for item in (ITEMS[0], blank)])
    with pytest.raises(InputError, match=r"pairs.jsonl, line 2: item 'blank' has no text. Give it a text in .*items"):
        score_pool(tiny.path, pairs, items=items, out=tmp_path / "t.jsonl")
    assert not list(tmp_path.glob("t.jsonl*"))
