"""Data on disk: the same answers as in memory, the same errors, built once, of current files only."""

from __future__ import annotations

import gc
import gzip
import json
import random
import sqlite3
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery, digest_records
from tests.helpers.files import read_rows, write_rows
from tests.helpers.training_project import laws, tiny_tokenizer, write_project
from trainer import run_folder
from trainer.config import Data, read_config
from trainer.data import disk
from trainer.data.splits import hold_out
from trainer.stages import plan
from trainer.training_data import judged
from trainer.training_data.judged import keeps_on_disk
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import sample_queries
from trainer.training_data.source import JudgedSource

BATCH = ("queries", "items", "groups")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer("bert")[0]


@pytest.fixture
def project(tmp_path) -> Path:
    """Judgments in an order that is not by query, with slices, a query beyond its cap and two of one text."""
    path = write_project(tmp_path / "project", Path("nowhere"), data={"traffic": "", "sample_pairs": 60})
    rows = [json.loads(line) for line in (path.parent / "judgments.jsonl").read_text().splitlines()]
    for row in rows:
        row["slice"] = f"s{len(row['query']) % 3}"
    rows += [{"query_id": "again", "query": rows[0]["query"].upper(), "item_id": "i3", "grade": 1}]
    rows += [{"query": "theft " * 40, "item_id": f"i{n}", "grade": n % 3} for n in range(9)]
    random.Random(3).shuffle(rows)
    write_rows(path.parent / "judgments.jsonl", rows)
    return path


def read(path: Path, tokenizer, kind: str, store: Path | None = None, **keys):
    more = [f"data.{key}={json.dumps(value)}" for key, value in keys.items()]
    return read_data(read_config(path, [f"data.store={kind}", *more]), path.parent, tokenizer, store=store)


# ---- the same as in memory


@pytest.mark.parametrize("keys", [{}, {"traffic": "traffic.jsonl"}, {"held_out_queries": 2}, {"sample_pairs": 7}])
def test_the_same_data(project, tokenizer, keys):
    one, two = (read(project, tokenizer, kind, **keys) for kind in ("memory", "disk"))
    assert isinstance(one.train, list) and not isinstance(two.train, list)
    assert dict(two.items) == one.items and list(two.items.values()) == list(one.items.values())
    assert list(two.train) == one.train and two.train[2:5] == one.train[2:5] and two.train[-1] == one.train[-1]
    assert two.summary() == one.summary()
    for name in ("dev", "traffic", "familiar", "sample", "learnt"):
        assert getattr(two, name) == getattr(one, name), name
    assert one.dev and one.traffic
    if "held_out_queries" in keys:
        assert len({query.query.lower() for query in one.dev}) == 2
    if "sample_pairs" in keys:
        assert sum(len(query.grades) for query in one.sample) <= 9 < sum(len(query.grades) for query in one.train)


@pytest.mark.parametrize("cap", [1, 4, 16])
def test_the_same_batches(project, tokenizer, cap):
    both = [read(project, tokenizer, kind) for kind in ("memory", "disk")]
    one, two = (JudgedSource(data.train, data.items, cap=cap, seed=5) for data in both)
    assert both[0].stored is None and both[1].stored is not None and one.n_queries == two.n_queries
    for epoch in range(2):
        for queries in ([0], [7, 3, 11], list(range(one.n_queries))):
            a, b = one.batch(queries, epoch), two.batch(queries, epoch)
            assert all(getattr(a, name) == getattr(b, name) for name in BATCH)
            assert torch.equal(a.query_index, b.query_index) and torch.equal(a.grades, b.grades)
            assert max(torch.bincount(a.query_index)) <= cap
    assert len(two.batch([], 0).queries) == 0 == len(one.batch([], 0).queries)


def test_the_same_weights(tmp_path, bases, monkeypatch):
    monkeypatch.setattr(plan.Verdict, "kept", True)  # few queries may decide either way
    path = write_project(
        tmp_path / "p", bases["bert"], contrary=True, data={"sample_pairs": 60},
        stages={"full_epochs": 2, "device": "cpu"},
    )  # fmt: skip
    runs = []
    for kind in ("memory", "disk"):
        plan.train(read_config(path, [f"data.store={kind}"]), path.parent, tmp_path / kind)
        runs.append(load_file(tmp_path / kind / "checkpoint" / "model.safetensors"))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    one, two = (json.loads((tmp_path / kind / "result.json").read_text()) for kind in ("memory", "disk"))
    assert one == two and one["stages"][0]["kept"]
    assert (tmp_path / "disk" / run_folder.STORE).is_file() and not (tmp_path / "memory" / run_folder.STORE).exists()


@laws
@given(
    texts=st.lists(st.sampled_from(["a", "A ", "b", "c", "d", "e f", "E  F"]), min_size=2, max_size=20),
    share=st.floats(0.05, 0.85), seed=st.integers(0, 99), most=st.integers(1, 4),
)  # fmt: skip
def test_the_same_queries_are_held_out(tmp_path_factory, texts, share, seed, most):
    queries = [JudgedQuery(str(n), text, ("i",), (0,)) for n, text in enumerate(texts)]
    with sqlite3.connect(":memory:") as db:
        builder = disk.Builder(db)
        for query in queries:
            db.execute(
                "INSERT INTO query (id, given, text, slice, same, cut, part) VALUES (?, ?, ?, '', ?, ?, 'train')",
                (query.query_id, query.query, query.query, *[" ".join(query.query.casefold().split())] * 2),
            )
        try:
            rest, held = hold_out(queries, share, seed, most=most)
        except InputError as err:
            with pytest.raises(InputError) as caught:
                builder.hold_out(disk.DEV, share, seed, key="dev_share", most=most)
            assert str(caught.value) == str(err)
            return
        builder.hold_out(disk.DEV, share, seed, key="dev_share", most=most)
        for part, wanted in ((disk.TRAIN, rest), (disk.DEV, held)):
            found = [i for (i,) in db.execute("SELECT id FROM query WHERE part = ? ORDER BY n", (part,))]
            assert found == [query.query_id for query in wanted]
    db.close()


@laws
@given(rows=st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=8), seed=st.integers(0, 99))
def test_the_digest_knows_the_rows_and_not_their_order(rows, seed):
    items = [Item(item_id, text, "") for item_id, text in rows]
    shuffled = random.Random(seed).sample(items, len(items))
    assert digest_records(iter(shuffled)) == digest_records(items)
    for n in range(len(items)):
        assert digest_records(items[:n] + items[n + 1 :]) != digest_records(items)
        assert digest_records([*items, items[n]]) != digest_records(
            items
        )  # a sum, where an exclusive or would forget a pair
    assert len(digest_records(items)) == 64


# ---- items without text


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_items_without_text_are_counted_and_passed_over(project, tokenizer, kind):
    """Judged for a query with other items and for one without, or not named at all."""
    folder = project.parent
    plain = read(project, tokenizer, kind)
    for name, rows in {
        "items": [{"id": "b1"}, {"id": "b2", "title": "  "}, {"id": "b3", "kind": None}],
        "judgments": [
            {"query_id": "q1", "query": judged_text(folder, "q1"), "item_id": "b1", "grade": 2},
            {"query_id": "alone", "query": "alone", "item_id": "b1", "grade": 1},
        ],
    }.items():
        with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    found = read(project, tokenizer, kind)
    assert dict(found.blank) == {"b1": 2, "b2": 0, "b3": 0}
    assert len(found.items) == len(plain.items) and "b1" not in found.items
    assert list(found.train) == list(plain.train) and found.dev == plain.dev
    assert (found.traffic, found.familiar) == (plain.traffic, plain.familiar)
    assert found.summary()["without_text"] == {"b1": 2, "b2": 0, "b3": 0} and "without_text" not in plain.summary()


def test_an_unknown_item_is_still_an_error_beside_one_without_text(project, tokenizer):
    for name, row in (("items", {"id": "b1"}), ("judgments", {"query": "q", "item_id": "b2", "grade": 1})):
        with (project.parent / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="item 'b2' is not in the items"):
        read(project, tokenizer, "memory")


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_item_without_text_and_another_with_its_id(project, tokenizer, kind):
    with (project.parent / "items.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "b1"}\n{"id": "b1", "title": "bike"}\n')
    with pytest.raises(InputError, match="line 22: item 'b1' appears twice"):
        read(project, tokenizer, kind)


def judged_text(folder, query_id):
    return next(row["query"] for row in read_rows(folder / "judgments.jsonl") if row.get("query_id") == query_id)


# ---- the same errors

ITEM = {"id": "x", "title": "bike"}
BAD = {
    "broken item": ("items.jsonl", '{"id": ', "line 21: not JSON"),
    "item twice": ("items.jsonl", json.dumps({"id": "i0", "title": "b"}), "item 'i0' appears twice (first: "),
    "item without id": ("items.jsonl", json.dumps({"title": "b"}), "the item has no 'id'"),
    "broken judgment": ("judgments.jsonl", "[1]", "an array, not an object"),
    "grade": (
        "judgments.jsonl", json.dumps({"query": "q", "item_id": "i0", "grade": 9}),
        "field 'grade' is 9, not a whole number in 0..2",
    ),
    "no query": ("judgments.jsonl", json.dumps({"query": " ", "item_id": "i0", "grade": 1}), "'query' is empty"),
    "no item": (
        "judgments.jsonl", json.dumps({"query": "q", "item_id": "i99", "grade": 1}),
        "item 'i99' is not in the items",
    ),
    "pair twice": ("judgments.jsonl", "first", "appears twice (first: "),
    "text changed": (
        "judgments.jsonl", json.dumps({"query_id": "q1", "query": "q", "item_id": "i0", "grade": 1}), "is 'q' here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_the_same_errors(project, tokenizer, case, tmp_path):
    name, line, said = BAD[case]
    file = project.parent / name
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[0] if line == "first" else line]) + "\n")
    texts = []
    for kind in ("memory", "disk"):
        with pytest.raises(InputError) as caught:
            read(project, tokenizer, kind, store=tmp_path / "runs" / "one" / "store.sqlite")
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert said in texts[0] and f"{name}, line {len(lines) + 1}: " in texts[0]
    assert not (tmp_path / "runs").exists()  # what is refused leaves nothing


@pytest.mark.parametrize("name", ["items.jsonl", "judgments.jsonl"])
@pytest.mark.parametrize("what", ["empty", "gone"])
def test_a_file_with_nothing_in_it(project, tokenizer, name, what):
    texts = []
    (project.parent / name).unlink()
    if what == "empty":
        (project.parent / name).touch()
    for kind in ("memory", "disk"):
        with pytest.raises(InputError) as caught:
            read(project, tokenizer, kind)
        texts.append(str(caught.value))
    assert texts[0] == texts[1] and name in texts[0]


def test_one_grade_only(project, tokenizer):
    write_rows(project.parent / "judgments.jsonl", [{"query": f"q{n}", "item_id": "i0", "grade": 1} for n in range(20)])
    for kind in ("memory", "disk"):
        with pytest.raises(InputError, match=r"no query has items of two grades\. Judge good and bad items"):
            read(project, tokenizer, kind)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_dev_file_with_a_query_of_the_training_part(project, tokenizer, kind):
    first = json.loads((project.parent / "judgments.jsonl").read_text().splitlines()[0])
    write_rows(project.parent / "dev.jsonl", [first | {"query": first["query"].upper()}])
    with pytest.raises(InputError, match=r"dev\.jsonl: query .* is also in the training part"):
        read(project, tokenizer, kind, dev="dev.jsonl", traffic="traffic.jsonl")


# ---- built once


def test_it_is_built_once_and_again_when_something_changes(project, tokenizer, tmp_path, monkeypatch):
    place, builds = tmp_path / "run" / "store.sqlite", []
    real = disk.build_store
    monkeypatch.setattr(disk, "build_store", lambda *args: (builds.append(1), real(*args)))
    read(project, tokenizer, "disk", place)
    read(project, tokenizer, "disk", place)
    assert len(builds) == 1
    read(project, tokenizer, "disk", place, dev_share=0.4)
    assert len(builds) == 2
    lines = (project.parent / "judgments.jsonl").read_text().splitlines(keepends=True)
    (project.parent / "judgments.jsonl").write_text("".join(lines[1:]))
    data = read(project, tokenizer, "disk", place)
    assert len(builds) == 3 and dict(data.items)["i0"]
    place.write_bytes(b"not a database" * 100)
    assert read(project, tokenizer, "disk", place).summary() == data.summary()
    assert len(builds) == 4
    assert [p.name for p in place.parent.iterdir()] == ["store.sqlite"]


def test_a_store_without_a_place_goes_with_its_readers(project, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.tempfile, "tempdir", str(tmp_path))
    data = read(project, tokenizer, "disk")
    items, train = data.items, data.train
    del data
    assert items["i0"].text and train[0].grades  # each keeps the file open
    assert list(tmp_path.glob("darl-store-*"))
    del items, train
    gc.collect()
    assert not list(tmp_path.glob("darl-store-*"))


def test_a_full_disk(project, tokenizer, tmp_path):
    """SQLite's own bound on the pages of a file stands in for the disk."""

    def build(builder: disk.Builder) -> None:
        builder.db.execute("PRAGMA max_page_count = 16")
        builder.db.executemany("INSERT INTO item (id, text) VALUES (?, ?)", ((str(n), "x" * 999) for n in range(999)))

    with pytest.raises(DarlError) as caught:
        disk.open_store(tmp_path / "run" / "store.sqlite", "key", build)
    assert "the disk is full: items and judgments cannot be stored" in str(caught.value)
    assert "Free about twice the size of the files, or choose another folder with --run." in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_when_it_is_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(judged, "STORE_ABOVE", 1000)
    write_rows(tmp_path / "i.jsonl", [{"x": "y" * 500}])
    write_rows(tmp_path / "j.jsonl", [{"x": "y" * 400}])
    (tmp_path / "j.jsonl.gz").write_bytes(gzip.compress(random.Random(1).randbytes(100)))

    def asked(**keys):
        return keeps_on_disk(Data(**{"items": "i.jsonl", "judgments": "j.jsonl"} | keys), tmp_path)

    assert not asked() and asked(store="disk") and not asked(judgments="no.jsonl")
    assert asked(judgments="j.jsonl.gz")  # packed, it is more than it looks
    monkeypatch.setattr(judged, "STORE_ABOVE", 900)
    assert asked() and not asked(store="memory")


def test_the_sample_is_random_bounded_and_in_order():
    queries = [JudgedQuery(str(n), f"q{n}", ("i",) * (1 + n % 4), (0,) * (1 + n % 4)) for n in range(40)]
    everything = sum(len(query.grades) for query in queries)
    assert sample_queries(queries, everything, 0) == queries
    some = sample_queries(queries, everything // 2, 0)
    assert everything // 2 - 4 < sum(len(query.grades) for query in some) <= everything // 2
    assert some == sorted(some, key=lambda query: int(query.query_id)) != queries[: len(some)]
    assert sample_queries(queries, everything // 2, 0) == some != sample_queries(queries, everything // 2, 1)
    assert len(sample_queries([queries[3]], 1, 0)) == 1  # one query is drawn in any case


def test_what_is_not_there(project, tokenizer):
    data = read(project, tokenizer, "disk")
    assert "no" not in data.items and data.items.get("no") is None
    with pytest.raises(KeyError):
        data.items["no"]
    for place in (len(data.train), -len(data.train) - 1):
        with pytest.raises(IndexError):
            data.train[place]
