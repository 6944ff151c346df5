"""Every format: what is written is what the trainer reads, and what is wrong is named."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darl_opensearch.errors import DarlError, InputError, MissingExtra, UsageError
from darl_opensearch.records.items import read_items
from darl_opensearch.records.judgments import read_judgments
from darl_opensearch.text import ItemRenderer
from tests.helpers.bundles import tiny_tokenizer
from tests.helpers.data_shapes import (
    PRODUCTS,
    SHAPES,
    esci_examples,
    esci_products,
    parquet,
    plain,
    ratings,
    table,
    ubi_event,
    ubi_queries,
    write_jsonl,
    write_trec,
    write_ubi,
)
from tests.helpers.files import read_rows, write_rows
from trainer.config import read_config
from trainer.data import tables
from trainer.data.importers import IMPORTERS, gathering, run_import

FORMATS = sorted(SHAPES)


def imported(name, folder, files=None, **changes):
    shape = SHAPES[name]
    paths = shape.write(folder) if files is None else files
    options = {"params": shape.params, "fields": shape.fields} | changes
    return run_import(name, paths, options.pop("out", folder / "out"), **options)


def read_back(out):
    """Items and judgments, as a training run reads them."""
    config = read_config(out / "darl.toml")
    renderer = ItemRenderer(config.template.item_template, tiny_tokenizer(["some words"], 64), 64)
    items = read_items(out / config.data.items, renderer)
    return config, items, read_judgments(out / config.data.judgments, items, config.grades.scale.k)


def left(folder):
    return {path.name for path in folder.iterdir()}


def test_every_format_has_a_shape():
    assert set(IMPORTERS) == set(SHAPES)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_what_the_trainer_reads(name, tmp_path):
    shape = SHAPES[name]
    done = imported(name, tmp_path)
    config, items, queries = read_back(tmp_path / "out")
    key = (lambda item: items[item].text) if name == "triples" else (lambda item: item)
    found = [(q.query, key(i), g) for q in queries for i, g in zip(q.item_ids, q.grades, strict=True)]
    assert found == shape.judgments
    assert [*config.grades.scale.names] == shape.grades
    assert [*config.grades.scale.gains] == shape.gains
    counts = done.counts
    assert (counts.items, counts.queries, counts.judgments) == (len(items), len(queries), len(shape.judgments))
    assert counts.grades == [sum(g == grade for *_, g in shape.judgments) for grade in range(len(shape.grades))]
    assert done.to_json()["folder"] == str(tmp_path / "out")


@pytest.mark.parametrize("name", FORMATS)
def test_again_gives_the_same_bytes(name, tmp_path):
    written = []
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        imported(name, tmp_path / part)
        written.append({p.name: p.read_bytes() for p in (tmp_path / part / "out").iterdir()})
    assert written[0] == written[1] and set(written[0]) == {"items.jsonl", "judgments.jsonl", "darl.toml"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_dry_run_counts_the_same_and_writes_nothing(name, tmp_path):
    shape = SHAPES[name]
    files = shape.write(tmp_path)
    before = left(tmp_path)
    dry = run_import(name, files, None, params=shape.params, fields=shape.fields)
    assert left(tmp_path) == before
    assert dry.counts == imported(name, tmp_path, files).counts


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_with_the_usual_names_will_do(name, tmp_path):
    shape = SHAPES[name]
    shape.write(tmp_path)
    assert imported(name, tmp_path, [tmp_path]).counts.judgments == len(shape.judgments)


@pytest.mark.parametrize("name", FORMATS)
def test_a_misspelt_field_is_named_with_file_and_row(name, tmp_path):
    shape = SHAPES[name]
    files = shape.write(tmp_path)
    number, right, wrong = shape.needed
    file = files[number]
    if file.suffix == ".parquet":
        parquet(file, [{wrong if k == right else k: v for k, v in row.items()} for row in esci_products()])
        where, what = f"{file}, row 1", rf"there is no field '{right}'\. .*[Dd]id you mean '{wrong}'\?"
    elif name == "triples":
        file.write_text(file.read_text() + "only\ttwo\n")
        where = f"{file}, line 4"
        what = "2 cells for 3 columns .query, positive, negative.. Correct the line, or where the format takes col"
    else:
        text = file.read_text()
        text = text.replace(f'"{right}"', f'"{wrong}"') if name != "wands" else text.replace(right, wrong, 1)
        file.write_text(text)
        line = ", hits.hits[0], judgmentRatings[0].ratings[0]" if name == "search-relevance" else ", line 1"
        line = ", line 2" if name == "wands" else line
        where, what = f"{file}{line}", rf"there is no field '{right}'\. .*[Dd]id you mean '{wrong}'\?"
    with pytest.raises(InputError, match=what) as caught:
        imported(name, tmp_path, files)
    assert caught.value.where == where
    assert left(tmp_path) == {file.name for file in files}, "nothing is left behind"


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_file_is_named(name, tmp_path):
    files = SHAPES[name].write(tmp_path)
    files[0].write_bytes(b'{"query": "\xff')
    with pytest.raises(InputError) as caught:
        imported(name, tmp_path, files)
    assert str(files[0]) in caught.value.where and caught.value.todo
    assert left(tmp_path) == {file.name for file in files}


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_does_not_know_is_refused(name, tmp_path):
    files = SHAPES[name].write(tmp_path)
    with pytest.raises(UsageError, match=rf"format '{name}' has no parameter 'item'. Did you mean 'items'\?"):
        run_import(name, files, None, params={"item": "all"})
    with pytest.raises(UsageError, match=rf"format '{name}' reads no field 'nonsense'"):
        run_import(name, files, None, fields={"nonsense": "x"})
    with pytest.raises(UsageError, match=f"0 files for format '{name}'"):
        run_import(name, [], None)
    with pytest.raises(UsageError, match="items is 'some'. Choose all or judged"):
        run_import(name, files, None, params={"items": "some"})


def test_an_unknown_format_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"unknown format 'wand'. Did you mean 'wands'\?"):
        run_import("wand", [tmp_path], None)


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    imported("jsonl", tmp_path)
    kept = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(UsageError, match="it already exists. Choose another with --out"):
        imported("jsonl", tmp_path)
    assert kept == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_a_folder_without_a_needed_file(tmp_path):
    SHAPES["wands"].write(tmp_path)[2].unlink()
    with pytest.raises(UsageError, match=r"there is no label\.\* for format 'wands'"):
        run_import("wands", [tmp_path], None)
    (tmp_path / "label.csv").touch()
    (tmp_path / "label.tsv").touch()
    with pytest.raises(UsageError, match=r"label.csv and label.tsv could both be the label"):
        run_import("wands", [tmp_path], None)


# One team's own tables


def test_items_inside_the_judgments(tmp_path):
    rows = [{"query": "shoes", "item_id": p["sku"], "grade": n, **p} for n, p in enumerate(PRODUCTS)]
    rows += [rows[0] | {"query": "boots", "grade": 1}]
    done = imported("jsonl", tmp_path, [write_rows(tmp_path / "j.jsonl", rows)], fields={}, params={})
    _, items, queries = read_back(tmp_path / "out")
    assert [q.query_id for q in queries] == ["shoes", "boots"]  # the text where there is no id
    assert items["p1"].text == "Trail running shoes | about: Light shoes for rough ground"
    assert done.counts.repeated_items == 1
    assert read_rows(tmp_path / "out" / "items.jsonl")[0] == {"id": "p1", **PRODUCTS[0]}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl.gz"])
def test_tables_of_every_kind_give_the_same(suffix, tmp_path):
    rows = [{"query": "shoes", "item_id": "p1", "grade": 2}, {"query": "shoes", "item_id": "p3", "grade": 0}]
    files = []
    for name, part in (("judgments", rows), ("items", [{"id": p["sku"], "title": p["title"]} for p in PRODUCTS])):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            parquet(path, part)
        elif suffix == "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in part).encode()))
        else:
            table(path, part, "\t" if suffix == "tsv" else ",")
        files.append(path)
    imported("jsonl", tmp_path, files, fields={}, params={})
    assert read_rows(tmp_path / "out" / "judgments.jsonl") == [{"query_id": "shoes", **row} for row in rows]
    assert read_rows(tmp_path / "out" / "items.jsonl") == [{"id": p["sku"], "title": p["title"]} for p in PRODUCTS]


BAD_ROWS = {
    "no such grade": ({"grade": "fitting"}, "field 'grade' is 'fitting', which is not a grade. The labels are"),
    "grade above": ({"grade": 3}, "field 'grade' is 3, not a whole number in 0..2"),
    "grade between": ({"grade": "1.5"}, "field 'grade' is '1.5', not a whole number in 0..2"),
    "no grade": ({"grade": True}, "field 'grade' is True, which is not a grade"),
    "huge grade": ({"grade": 10**400}, "field 'grade' is 1000"),
    "blank item": ({"item_id": " "}, "field 'item_id' is missing or empty"),
    "empty query": ({"q": "  "}, "field 'query' is empty or not text"),
    "no query": ({"q": 7}, "field 'query' is empty or not text"),
    "long query": ({"q": "x" * 10_001}, "field 'query' has 10,001 characters"),
    "no item": ({"item_id": ""}, "field 'item_id' is missing or empty"),
    "odd item": ({"item_id": 1.5}, "field 'item_id' is 1.5, neither text nor a whole number"),
    "unknown item": (
        {"item_id": "p9"},
        "item 'p9' is not in the items. Add it to the items, or drop such judgments with --miss",
    ),
    "another grade": ({"item_id": "p3", "query_id": "q1"}, "the pair of query 'running shoes' and item 'p3' has grade"),
    "another text": ({"query_id": "q1", "q": "boots"}, "query 'q1' is 'boots' here, but was 'running shoes'"),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_bad_rows_are_named(bad, tmp_path):
    change, message = BAD_ROWS[bad]
    files = write_jsonl(tmp_path)
    row = {"q": "running shoes", "query_id": "q3", "item_id": "p1", "grade": 1} | change
    rows = read_rows(files[0]) + [row]
    write_rows(files[0], rows)
    with pytest.raises(InputError) as caught:
        imported("jsonl", tmp_path, files)
    assert message in str(caught.value)
    assert caught.value.where == f"{files[0]}, line 4"


@pytest.mark.parametrize(("rule", "grade"), [("first", 2), ("highest", 2), ("lowest", 1)])
def test_pairs_judged_twice(rule, grade, tmp_path):
    files = write_jsonl(tmp_path)
    again = {"q": "running shoes", "query_id": "q1", "item_id": "p1", "grade": 1}
    write_rows(files[0], [*read_rows(files[0]), again])
    done = imported("jsonl", tmp_path, files, repeats=rule)
    assert read_rows(tmp_path / "out" / "judgments.jsonl")[0]["grade"] == grade
    assert done.counts.repeated_judgments == 1


def test_what_is_missing_can_be_dropped(tmp_path):
    files = write_jsonl(tmp_path)
    write_rows(files[0], [*read_rows(files[0]), {"q": "sun", "item_id": "p9", "grade": 1}])
    write_rows(files[1], [*PRODUCTS, {"sku": "p7", "price": 3}])
    with pytest.raises(InputError, match=r"line 4: the item has none of .* or drop such items with --missing drop"):
        imported("jsonl", tmp_path, files)
    done = imported("jsonl", tmp_path, files, missing="drop")
    assert (done.counts.dropped_judgments, done.counts.dropped_items, done.counts.queries) == (1, 1, 2)
    read_back(tmp_path / "out")


def test_nothing_left_is_an_error(tmp_path):
    files = write_jsonl(tmp_path)
    write_rows(files[0], [{"q": "sun", "item_id": "p9", "grade": 1}])
    with pytest.raises(InputError, match=r"no judgments left to write \(dropped judgments: 1\). Check that the files"):
        imported("jsonl", tmp_path, files, missing="drop")


def test_items_with_one_id(tmp_path):
    files = write_jsonl(tmp_path)
    write_rows(files[1], [*PRODUCTS, PRODUCTS[0]])
    assert imported("jsonl", tmp_path, files).counts.repeated_items == 1
    write_rows(files[1], [*PRODUCTS, PRODUCTS[0] | {"title": "another"}])
    with pytest.raises(
        InputError,
        match=r"line 4: item 'p1' appears twice: field 'title' is 'another' here, but was 'Trail running shoes'",
    ):
        run_import("jsonl", files, None, params=SHAPES["jsonl"].params, fields=SHAPES["jsonl"].fields)


def test_items_are_all_or_the_judged(tmp_path):
    params = SHAPES["jsonl"].params | {"items": "judged"}
    imported("jsonl", tmp_path, params=params)
    assert [row["id"] for row in read_rows(tmp_path / "out" / "items.jsonl")] == ["p1", "p3"]


def test_a_template_of_ones_own(tmp_path):
    params = SHAPES["jsonl"].params | {"template": "about,=title"}
    imported("jsonl", tmp_path, params=params)
    assert read_back(tmp_path / "out")[0].template.fields == ("about", "=title")
    with pytest.raises(UsageError, match=r"template names 'titel', which no item has. Did you mean 'title'\?"):
        run_import(
            "jsonl", write_jsonl(tmp_path), None, params=params | {"template": "=titel"}, fields=SHAPES["jsonl"].fields
        )


def test_a_name_for_a_field_that_no_row_has(tmp_path):
    files = write_jsonl(tmp_path)
    fields = SHAPES["jsonl"].fields | {"slice": "slise"}
    with pytest.raises(
        InputError, match=r"judgments.jsonl, line 1: there is no field 'slise'. .* did you mean 'slice'\?"
    ):
        imported("jsonl", tmp_path, files, fields=fields)
    one_file = {"query": "q", "items.id": "sku"}
    assert run_import("jsonl", files, None, params=SHAPES["jsonl"].params, fields=one_file).counts.judgments == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gains": "0,1"}, "2 gains"),
        ({"gains": "0,2,1"}, "gains is '0,2,1'. Give increasing numbers"),
        ({"cuts": "1,x", "gains": "", "labels": ""}, "cuts is '1,x'. Give increasing numbers"),
        ({"cuts": "1", "gains": ""}, "3 labels for 2 grades. 1 cut points separate 2 grades"),
        ({"labels": "a,a,b"}, "are not distinct"),
    ],
)
def test_scales_that_do_not_fit(params, message, tmp_path):
    files = write_jsonl(tmp_path)
    shape = SHAPES["jsonl"]
    with pytest.raises(UsageError) as caught:
        run_import("jsonl", files, None, params=shape.params | params, fields=shape.fields)
    assert message in str(caught.value)


@given(st.lists(st.floats(-5, 5).map(lambda x: round(x, 2)), min_size=1, max_size=4, unique=True), st.floats(-6, 6))
def test_a_cut_grade_counts_the_cuts_at_or_below(cuts, value):
    from trainer.data.importers.grading import GradeMapping

    cuts = sorted(cuts)
    grading = GradeMapping.of(cuts=",".join(map(str, cuts)))
    assert grading.grade(value, "x", "f") == sum(cut <= value for cut in cuts)
    assert grading.grade(repr(value), "x", "f") == grading.grade(value, "x", "f")
    assert grading.scale(0).k == len(cuts) + 1


@pytest.mark.parametrize("value", [3, 3.0, "3", " 3 ", "3.0"])
def test_labels_that_are_numbers_are_read_as_labels(value):
    from trainer.data.importers.grading import GradeMapping

    assert GradeMapping.of(labels="1,2,3,4,5").grade(value, "x", "f") == 2
    assert GradeMapping.of(labels="0,2,3").grade(value, "x", "f") == 2
    assert GradeMapping.of(labels="bad,poor,fair,good").grade(value, "x", "f") == 3
    assert GradeMapping.of(labels="1,2,3", cuts="3,4").grade(value, "x", "f") == 1  # a measurement


@pytest.mark.parametrize("value", [0, "0", 6, "2.5", True, None])
def test_a_number_that_is_no_label_is_refused(value):
    from trainer.data.importers.grading import GradeMapping

    with pytest.raises(InputError, match="field 'stars' is .*, which is not a grade") as caught:
        GradeMapping.of(labels="1,2,3,4,5").grade(value, "stars", "f.csv:2")
    assert caught.value.todo == "the labels are 1, 2, 3, 4, 5"


# Tables


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("query,item_id,grade\na,b\n", 2, "2 cells for 3 columns"),
        ('query,item_id,grade\n"a\nb",p1,1\n"c"d,p1,1\n', 4, "not a table"),
        ("query,query,grade\na,b,1\n", 1, "column 'query' appears twice"),
        (
            "query,item,grade\na,p1,1\n",
            2,
            "there is no field 'item_id'. Map it with --field; did you mean 'item'?",
        ),
    ],
)
def test_broken_tables(text, line, message, tmp_path):
    (tmp_path / "j.csv").write_text(text)
    items = write_rows(tmp_path / "items.jsonl", [{"id": "p1", "title": "x"}])
    with pytest.raises(InputError) as caught:
        run_import("jsonl", [tmp_path / "j.csv", items], None)
    assert message in str(caught.value) and caught.value.where == f"{tmp_path / 'j.csv'}, line {line}"


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "j.csv").write_text("query,item_id,grade\n" + "a,p1,1," * (1 << 18))
    (tmp_path / "qrels.txt").write_text("q 0 p1 1 " * (1 << 18))
    items = write_rows(tmp_path / "items.jsonl", [{"id": "p1", "text": "x"}])
    with pytest.raises(InputError, match=r"j.csv, line 2: the line is longer than 1 MB. Write one row per line"):
        run_import("jsonl", [tmp_path / "j.csv", items], None)
    with pytest.raises(InputError, match=r"qrels.txt, line 1: the line is longer than 1 MB"):
        run_import("trec", [tmp_path / "qrels.txt", items, items], None)


def test_a_file_without_rows_is_named(tmp_path):
    files = write_jsonl(tmp_path)
    files[1].write_text("\n")
    with pytest.raises(InputError, match=r"items.jsonl: the file of items has no rows"):
        imported("jsonl", tmp_path, files)


def test_other_fields_of_a_judgment_are_kept(tmp_path):
    files = write_jsonl(tmp_path)
    rows = read_rows(files[0])
    write_rows(files[0], [row | {"judged_at": f"2026-01-0{n}", "by": ""} for n, row in enumerate(rows, 1)])
    imported("jsonl", tmp_path, files)
    assert [row["judged_at"] for row in read_rows(tmp_path / "out/judgments.jsonl")] == [
        f"2026-01-0{n}" for n, _ in enumerate(rows, 1)
    ]
    assert all("by" not in row for row in read_rows(tmp_path / "out/judgments.jsonl"))


def test_numbers_that_json_does_not_know(tmp_path):
    files = write_jsonl(tmp_path)
    rows = read_rows(files[1])
    parquet(tmp_path / "items.parquet", [row | {"v": [float("nan"), 0.5], "w": float("inf")} for row in rows])
    imported("jsonl", tmp_path, [files[0], tmp_path / "items.parquet"])
    found = read_rows(tmp_path / "out/items.jsonl")
    assert all(item["v"] == [None, 0.5] and "w" not in item for item in found) and len(found) == len(rows)


def test_dates_that_python_does_not_know(tmp_path):
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(
        pyarrow.table({"query": ["a"], "item_id": ["p1"], "grade": [1], "at": pyarrow.array(
            [2**62], pyarrow.timestamp("us"))}), tmp_path / "j.parquet",
    )  # fmt: skip
    items = write_rows(tmp_path / "items.jsonl", [{"id": "p1", "text": "x"}])
    with pytest.raises(InputError, match=r"j.parquet: not Parquet \(date value out of range\)"):
        run_import("jsonl", [tmp_path / "j.parquet", items], None)


def test_links_and_roundabout_ways_to_the_folder(tmp_path):
    files = write_jsonl(tmp_path)
    (tmp_path / "real").mkdir()
    for target in ("real", "gone"):
        (tmp_path / f"to-{target}").symlink_to(target)
        with pytest.raises(UsageError, match=f"to-{target}: it is a symbolic link. Use the folder that it points to"):
            imported("jsonl", tmp_path, files, out=tmp_path / f"to-{target}")
    imported("jsonl", tmp_path, files, out=tmp_path / "nowhere/../here")
    assert (tmp_path / "here/darl.toml").is_file() and not [name for name in left(tmp_path) if name.startswith(".")]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    files = write_jsonl(tmp_path)
    monkeypatch.setattr(gathering, "SCHEMA", "PRAGMA max_page_count = 2;" + gathering.SCHEMA)
    with pytest.raises(DarlError, match=r"the temporary database failed \(database or disk is full\). Free space"):
        imported("jsonl", tmp_path, files)
    assert left(tmp_path) == {file.name for file in files}


def test_a_row_is_named_by_its_first_line(tmp_path):
    (tmp_path / "j.csv").write_text('query,item_id,grade\n"a\n\nb",p1,1\n\n"c\nd",p1,x\n')
    items = write_rows(tmp_path / "items.jsonl", [{"id": "p1", "title": "x"}])
    with pytest.raises(InputError, match="line 6: field 'grade' is 'x'"):
        run_import("jsonl", [tmp_path / "j.csv", items], None)


def test_gzip_that_ends_early_and_files_that_are_not_there(tmp_path):
    items = write_rows(tmp_path / "items.jsonl", [{"id": "p1", "title": "x"}])
    (tmp_path / "j.csv.gz").write_bytes(gzip.compress(b"query,item_id,grade\n" + b"a,p1,1\n" * 999)[:-9])
    with pytest.raises(InputError, match=r"j.csv.gz: damaged gzip data"):
        run_import("jsonl", [tmp_path / "j.csv.gz", items], None)
    with pytest.raises(InputError, match=r"gone.csv: cannot be read \(No such file"):
        run_import("jsonl", [tmp_path / "gone.csv", items], None)
    with pytest.raises(InputError, match=r"gone.parquet: cannot be read"):
        run_import("jsonl", [tmp_path / "gone.parquet", items], None)
    (tmp_path / "j.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(InputError, match=r"j.parquet: not Parquet"):
        run_import("jsonl", [tmp_path / "j.parquet", items], None)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    files = SHAPES["esci"].write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(MissingExtra, match=r"pyarrow is not installed. Run: .* 'darl-opensearch\[parquet\]'"):
        run_import("esci", files, None)


# ESCI


def test_esci_filters_and_joins_within_a_market(tmp_path):
    params = {"locale": "all", "split": "all", "version": "all"}
    products = [*esci_products(), esci_products()[0] | {"product_id": "B2", "product_locale": "es"}]
    files = [parquet(tmp_path / "e.parquet", esci_examples()), parquet(tmp_path / "p.parquet", products)]
    run_import("esci", files, tmp_path / "out", params=params)
    rows = read_rows(tmp_path / "out" / "judgments.jsonl")
    assert [row["item_id"] for row in rows[-3:]] == ["es:B1", "us:B1", "us:B1"]
    titles = {row["id"]: row["product_title"] for row in read_rows(tmp_path / "out" / "items.jsonl")}
    assert titles["es:B1"] == "Zapatillas" and titles["us:B1"] == "Trail running shoes" and "es:B2" not in titles
    assert rows[-3]["slice"] == "es"


def test_esci_as_csv(tmp_path):
    files = [table(tmp_path / "e.csv", esci_examples()), table(tmp_path / "p.csv", esci_products())]
    assert run_import("esci", files, None).counts.judgments == 4


def test_esci_says_what_is_wrong(tmp_path):
    products = parquet(tmp_path / "p.parquet", esci_products())
    for label in ("X", "Excellent"):
        broken = parquet(tmp_path / "a.parquet", [esci_examples()[0] | {"esci_label": label}])
        message = rf"a.parquet, row 1: field 'esci_label' is '{label}'. It is one of E, S, C and I"
        with pytest.raises(InputError, match=message):
            run_import("esci", [broken, products], None)
    whole = parquet(tmp_path / "a.parquet", [esci_examples()[0] | {"esci_label": "Exact"}])
    assert run_import("esci", [whole, products], None).counts.grades == [0, 0, 0, 1]
    without = [{k: v for k, v in row.items() if k != "small_version"} for row in esci_examples()]
    old = parquet(tmp_path / "b.parquet", without)
    with pytest.raises(InputError, match="there is no field 'small_version'. Pass --set version=all"):
        run_import("esci", [old, products], None)
    assert run_import("esci", [old, products], None, params={"version": "all"}).counts.judgments == 5


# WANDS


def test_wands_says_what_is_wrong(tmp_path):
    files = SHAPES["wands"].write(tmp_path)
    text = files[2].read_text()
    files[2].write_text(text.replace("Partial", "Partly"))
    with pytest.raises(InputError, match=r"line 4: field 'label' is 'Partly'. It is one of Irrelevant, Partial, Exact"):
        run_import("wands", files, None)
    files[2].write_text(text + "9\t77\t0\tExact\n")
    with pytest.raises(InputError, match=r"line 5: there is no query '77'"):
        run_import("wands", files, None)


# TREC


def test_negative_grades(tmp_path):
    files = write_trec(tmp_path)
    files[0].write_text(files[0].read_text() + "302 0 d1 -2\n")
    with pytest.raises(InputError, match=r"qrels.txt, line 5: grade -2 is below 0. Pass --set negative=zero or drop"):
        run_import("trec", files, None)
    zero = run_import("trec", files, None, params={"negative": "zero"})
    drop = run_import("trec", files, None, params={"negative": "drop"})
    assert (zero.counts.grades, drop.counts.grades) == ([2, 1, 1], [1, 1, 1])
    assert drop.target.counts == {"dropped_negative_grades": 1}


def test_trec_documents_as_tsv_and_beirs_files(tmp_path):
    files = write_trec(tmp_path)
    documents = plain(tmp_path / "docs.tsv", [("d1", "u", 'The "eye"', "saw far"), ("d2", "u", "Coats", "dry coats")])
    run_import("trec", [*files[:2], documents], tmp_path / "out", params={"columns": "id,url,title,body"})
    assert read_back(tmp_path / "out")[1]["d1"].text == 'The "eye" | body: saw far'
    qrels = plain(tmp_path / "test.tsv", [("query-id", "corpus-id", "score"), ("301", "d1", "1")])
    topics = write_rows(tmp_path / "queries.jsonl", [{"_id": "301", "text": "the telescope"}])
    corpus = write_rows(tmp_path / "corpus.jsonl", [{"_id": "d1", "title": "Hubble", "text": "it saw far"}])
    done = run_import("trec", [qrels, topics, corpus], tmp_path / "beir", fields={"id": "_id"})
    assert (done.counts.judgments, done.target.template.fields) == (1, ("=title", "text"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (0, "301 d1\n", "qrels.txt, line 1: 2 columns, not topic, 0, document, grade"),
        (0, "999 0 d1 1\n", "qrels.txt, line 1: there is no topic '999'"),
        (0, "301 0 d1 x\n", "qrels.txt, line 1: field 'grade' is 'x', which is not a grade"),
        (0, "301 0 d1 55\n", "line 1: field 'grade' is '55', not a whole number in 0..9"),
        (1, "301\ta\n301\tb\n", "topics.tsv, line 2: topics: id '301' appears twice with different texts"),
    ],
)
def test_trec_says_what_is_wrong(file, text, message, tmp_path):
    files = write_trec(tmp_path)
    files[file].write_text(text)
    with pytest.raises(InputError) as caught:
        run_import("trec", files, None)
    assert message in str(caught.value)


# Search Relevance Workbench


def test_lists_of_the_workbench_in_every_wrapping(tmp_path):
    items = write_rows(tmp_path / "items.jsonl", [{"id": p["sku"], **p} for p in PRODUCTS])
    bare = tmp_path / "body.json"
    bare.write_text(json.dumps(ratings()))
    lines = write_rows(tmp_path / "export.jsonl", [{"_id": "j-1", "_source": ratings()}])
    for file in (bare, lines):
        assert run_import("search-relevance", [file, items], None, params={"cuts": "0.5,2"}).counts.judgments == 3


def test_a_list_where_none_has_a_name(tmp_path):
    (file := tmp_path / "judgments.json").write_text(json.dumps({"judgmentRatings": []}))
    with pytest.raises(UsageError, match="there is no judgment list 'x'. There are none"):
        run_import("search-relevance", [file, file], None, params={"list": "x"})


def test_one_list_of_several(tmp_path):
    other = ratings() | {"name": "LLM", "judgmentRatings": [{"query": "x", "ratings": [{"docId": "p2", "rating": 1}]}]}
    lists = write_rows(tmp_path / "l.jsonl", [{"_id": "j-1", "_source": ratings()}, {"_id": "j-2", "_source": other}])
    items = write_rows(tmp_path / "items.jsonl", [{"id": p["sku"], **p} for p in PRODUCTS])
    for one in ("LLM", "j-2"):
        assert run_import("search-relevance", [lists, items], None, params={"list": one}).counts.judgments == 1
    with pytest.raises(UsageError, match=r"there is no judgment list 'LMM'. Did you mean 'LLM'\?"):
        run_import("search-relevance", [lists, items], None, params={"list": "LMM"})


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ('{"judgmentRatings": \n[}', ", line 2", "not JSON (Expecting value at column 2)"),
        ("[]", "", "the file has no judgment list. Export one with status COMPLETED"),
        ("[1]", ", [0]", "not an object. Export a list of objects"),
        ("7", ", line 1", "a number, not an object. Write one JSON object per line"),
        ('{"judgmentRatings": NaN}', "", "not JSON (NaN is not a JSON number)"),
        ('{"judgmentRatings": ' + "1" * 5000 + "}", "", "not JSON (Exceeds the limit"),
        ('{"judgmentRatings": [], "name": "\\ud800"}', "", "holds half of a surrogate pair. Correct the \\u escape"),
        ('{"judgmentRating": []}', "", "there is no field 'judgmentRatings'. Did you mean 'judgmentRating'?"),
        ('{"judgmentRatings": 1}', "", "field 'judgmentRatings' is 1, not a list of objects"),
        ('{"judgmentRatings": {"a": 1}}', ", judgmentRatings['a']", "field 'ratings' is 1, not a list of objects"),
        ('{"judgmentRatings": {"": []}}', ", judgmentRatings['']", "field 'query' is empty"),
        (
            '{"judgmentRatings": {"a": {"p1": "high"}}}',
            ", judgmentRatings['a'].ratings[0]",
            "field 'rating' is 'high', which is not a grade",
        ),
        ('{"judgmentRatings": [{"query": "a"}]}', ", judgmentRatings[0]", "there is no field 'ratings'"),
        ('{"judgmentRatings": [{"query": "", "ratings": []}]}', ", judgmentRatings[0]", "field 'query' is empty"),
        (
            '{"judgmentRatings": [{"query": "a", "ratings": [{"docId": "p1", "rating": "high"}]}]}',
            ", judgmentRatings[0].ratings[0]",
            "field 'rating' is 'high', which is not a grade",
        ),
        (
            '{"judgmentRatings": [{"query": "a", "ratings": [{"docId": "p1", "rating": "0.73"}]}]}',
            ", judgmentRatings[0].ratings[0]",
            "field 'rating' is '0.73', not a whole number in 0..9. Correct it, or where the format takes cuts",
        ),
    ],
)
def test_the_workbench_says_what_is_wrong(text, where, message, tmp_path):
    file = tmp_path / "judgments.json"
    file.write_text(text)
    items = write_rows(tmp_path / "items.jsonl", [{"id": "p1", "title": "x y"}])
    with pytest.raises(InputError) as caught:
        run_import("search-relevance", [file, items], None)
    assert message in str(caught.value) and caught.value.where == f"{file}{where}"


# User Behavior Insights


def coec(folder, files, **params):
    run_import("ubi", files, folder / "out", params=params, fields={"id": "sku"})
    rows = read_rows(folder / "out" / "judgments.jsonl")
    return {row["item_id"]: (row["impressions"], row["clicks"], row["coec"], row["grade"]) for row in rows}


def test_clicks_over_expected_clicks(tmp_path):
    """Both ranks are clicked 4 times of 10, so 10 impressions of an item let 4 clicks be expected of it."""
    assert coec(tmp_path, write_ubi(tmp_path)) == {"p1": (10, 6, 6 / 4, 2), "p2": (10, 2, 2 / 4, 1)}
    assert all(row["weak"] is True for row in read_rows(tmp_path / "out" / "judgments.jsonl"))


def test_an_item_is_measured_by_the_rank_it_was_shown_at(tmp_path):
    """Clicked equally often, p2 at rank 2 where few click is worth more than p1 at rank 1.

    Rank 1: p1 clicked 4 of 8, p3 clicked 4 of 4: (4 + 4) / 12. Rank 2: p2 clicked 4 of 12.
    """
    queries = [row | {"user_query": "shoes", "query_response_hit_ids": ["p1", "p2"]} for row in ubi_queries(8)]
    queries += [row | {"query_id": f"x{n}", "user_query": "coat", "query_response_hit_ids": ["p3", "p2"]}
                for n, row in enumerate(ubi_queries(4))]  # fmt: skip
    events = [ubi_event(f"s{n}", "p1", 1) for n in range(4)] + [ubi_event(f"s{n}", "p2", 2) for n in range(4)]
    events += [ubi_event(f"x{n}", "p3", 1) for n in range(4)]
    files = [write_rows(tmp_path / "q.jsonl", queries), write_rows(tmp_path / "e.jsonl", events),
             write_rows(tmp_path / "i.jsonl", PRODUCTS)]  # fmt: skip
    found = coec(tmp_path, files, min_impressions="8")
    assert found == {
        "p1": (8, 4, pytest.approx(4 / (8 * 8 / 12)), 1),
        "p2": (8, 4, pytest.approx(4 / (8 * 4 / 12)), 2),
    }


LOG = st.lists(
    st.tuples(st.sampled_from(["shoes", "Shoes", "coat"]), st.permutations(["p1", "p2", "p3"]),
              st.sets(st.sampled_from(["p1", "p2", "p3"]))),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=LOG, max_rank=st.integers(1, 3), at_least=st.integers(1, 3))
def test_coec_against_counting_by_hand(log, max_rank, at_least, tmp_path):
    """The same by loops over a whole log in memory."""
    shown, clicked = Counter(), Counter()
    for _, ranking, clicks in log:
        for rank, item in enumerate(ranking[:max_rank]):
            shown[rank] += 1
            clicked[rank] += item in clicks
    impressions, got, expected = Counter(), Counter(), Counter()
    for text, ranking, clicks in log:
        for rank, item in enumerate(ranking[:max_rank]):
            pair = text.lower(), item
            impressions[pair] += 1
            got[pair] += item in clicks
            expected[pair] += Fraction(clicked[rank], shown[rank])
    wanted = {pair: got[pair] / expected[pair] for pair, n in impressions.items() if n >= at_least and expected[pair]}

    common = ubi_queries(1)[0]
    queries = [common | {"query_id": f"s{n}", "user_query": text, "query_response_hit_ids": list(ranking)}
               for n, (text, ranking, _) in enumerate(log)]  # fmt: skip
    events = [ubi_event(f"s{n}", item, 1) for n, (*_, clicks) in enumerate(log) for item in sorted(clicks)]
    files = [write_rows(tmp_path / "q.jsonl", queries), write_rows(tmp_path / "e.jsonl", events),
             write_rows(tmp_path / "i.jsonl", PRODUCTS)]  # fmt: skip
    params = {"max_rank": str(max_rank), "min_impressions": str(at_least)}
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        run_import("ubi", files, tmp_path / "out", params=params, fields={"id": "sku"})
    except InputError as err:
        said = ("was clicked", "no judgments left", "the file of events has no rows")
        assert not wanted and any(what in err.what for what in said)
        return
    rows = read_rows(tmp_path / "out" / "judgments.jsonl")
    assert {(row["query"].lower(), row["item_id"]) for row in rows} == set(wanted)
    for row in rows:
        coec = wanted[row["query"].lower(), row["item_id"]]
        assert row["coec"] == pytest.approx(float(coec), abs=1e-4)
        assert row["grade"] == (coec >= Fraction(1, 2)) + (coec >= Fraction(3, 2))


def test_what_was_shown_can_be_read_from_events(tmp_path):
    queries = [{k: v for k, v in row.items() if k != "query_response_hit_ids"} for row in ubi_queries(4)]
    shown = [ubi_event(f"s{n}", item, rank, "impression") for n in range(4) for rank, item in enumerate(["p1", "p2"])]
    clicks = [ubi_event("s0", "p1", 0), ubi_event("s1", "p2", 1)]
    files = [write_rows(tmp_path / "q.jsonl", queries), write_rows(tmp_path / "e.jsonl", shown + clicks),
             write_rows(tmp_path / "i.jsonl", PRODUCTS)]  # fmt: skip
    assert coec(tmp_path, files, shown_by="events", min_impressions="4") == {"p1": (4, 1, 1, 1), "p2": (4, 1, 1, 1)}


def test_what_clicks_pass_over_is_counted(tmp_path):
    files = write_ubi(tmp_path)
    write_rows(files[0], [*ubi_queries(), {"query_id": "e", "user_query": ""}, {"query_id": "f", "user_query": None},
                     ubi_queries(1)[0] | {"user_query": "boots", "query_response_hit_ids": ["p3"]}])  # fmt: skip
    done = run_import("ubi", files, None, fields={"id": "sku"})
    assert done.target.counts == {
        "searches_without_id": 0, "searches_without_words": 2, "searches_of_an_id_seen_before": 1, "hits_without_id": 0,
        "repeated_hits": 0, "repeated_clicks": 1, "repeated_impressions": 0,
        "other_events": 1, "events_without_query_id": 0, "events_without_item": 0, "impressions_without_rank": 0,
        "impressions_below_max_rank": 0, "clicks_on_nothing_shown": 1, "pairs_shown_too_rarely": 0,
        "pairs_no_click_was_expected_of": 0,
    }  # fmt: skip
    assert "weak" in done.target.notes[0]
    assert done.counts.judgments == 2  # and none of p3, which was shown for boots
    with pytest.raises(InputError, match=r"no judgments left to write \(.*pairs shown too rarely: 2"):
        run_import("ubi", files, None, params={"min_impressions": "11"}, fields={"id": "sku"})


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        ({"event_attributes": "x"}, {}, "field 'event_attributes' is 'x', not an object. See the UBI schema"),
        ({"event_attributes": {"object": {"object_id": {"id": 1}}}}, {},
         "field 'object_id' is {'id': 1}, neither text"),
        ({"event_attributes": {"object": {"object_id": ["p1"]}}}, {},
         "field 'event_attributes.object.object_id' is ['p1'], not one value"),
        ({"query_id": 1.5}, {}, "field 'query_id' is 1.5, neither text nor a whole number"),
        ({"event_attributes": {"object": {"object_id": "p1"}, "position": {"ordinal": "first"}}},
         {"shown_by": "events", "shown_actions": "click"},
         "field 'event_attributes.position.ordinal' is 'first', not a rank"),
        ({"event_attributes": {"object": {"object_id": "p1"}, "position": {"ordinal": {"index": -1}}}},
         {"shown_by": "events", "shown_actions": "click"},
         "field 'event_attributes.position.ordinal.index' is -1, not a rank"),
    ],
)  # fmt: skip
def test_events_that_are_not_of_the_schema(change, params, message, tmp_path):
    files = write_ubi(tmp_path)
    write_rows(files[1], [ubi_event("s1", "p1", 1) | change])
    with pytest.raises(InputError) as caught:
        run_import("ubi", files, None, params=params, fields={"id": "sku"})
    assert message in str(caught.value) and caught.value.where == f"{files[1]}, line 1"


def test_hits_that_are_no_ids(tmp_path):
    files = write_ubi(tmp_path)
    write_rows(files[0], [ubi_queries(1)[0] | {"query_response_hit_ids": ["p1", {"id": "p1"}]}])
    message = "line 1: field 'query_response_hit_ids' is {'id': 'p1'}, neither text nor a whole number"
    with pytest.raises(InputError, match=message):
        run_import("ubi", files, None, fields={"id": "sku"})


def test_a_log_without_clicks_or_views(tmp_path):
    files = write_ubi(tmp_path)
    write_rows(files[1], [ubi_event("s1", "p9", 1)])
    with pytest.raises(
        InputError,
        match=r"none of the impressions was clicked \(clicks on nothing shown: 1\). Check --set click_actions",
    ):
        run_import("ubi", files, None, fields={"id": "sku"})
    with pytest.raises(
        InputError, match=r"the log has no impressions \(clicks on nothing shown: 1\). Check --set shown_by"
    ):
        run_import("ubi", files, None, params={"shown_by": "events"}, fields={"id": "sku"})
    write_rows(files[0], [ubi_queries()[0] | {"query_response_hit_ids": "p1"}])
    with pytest.raises(InputError, match="line 1: field 'query_response_hit_ids' is 'p1', not a list"):
        run_import("ubi", files, None, fields={"id": "sku"})


# Triples


def test_triples_of_ids(tmp_path):
    triples = plain(tmp_path / "t.tsv", [("1", "a", "b"), ("1", "a", "c")])
    queries = plain(tmp_path / "queries.tsv", [("1", "lizards"), ("2", "other")])
    collection = plain(tmp_path / "collection.tsv", [(key, f"text {key}") for key in "abcd"])
    run_import("triples", [triples, queries, collection], tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "judgments.jsonl")
    assert [(r["query_id"], r["item_id"], r["grade"]) for r in rows] == [("1", "a", 1), ("1", "b", 0), ("1", "c", 0)]
    assert len(read_rows(tmp_path / "out" / "items.jsonl")) == 3
    with pytest.raises(UsageError, match="there are queries but no collection"):
        run_import("triples", [triples, queries], None)
    plain(triples, [("7", "a", "b")])
    with pytest.raises(InputError, match=r"t.tsv, line 1: there is no query '7'"):
        run_import("triples", [triples, queries, collection], None)
    plain(triples, [("1", "a", "z")])
    with pytest.raises(InputError, match=r"t.tsv, line 1: item 'z' is not in the items"):
        run_import("triples", [triples, queries, collection], None)


def test_positive_wins(tmp_path):
    triples = plain(tmp_path / "t.tsv", [("q", "a a", "b b"), ("q", "b b", "c c"), ("q", "a a", "b b")])
    run_import("triples", [triples], tmp_path / "out")
    texts = {row["id"]: row["text"] for row in read_rows(tmp_path / "out" / "items.jsonl")}
    rows = read_rows(tmp_path / "out" / "judgments.jsonl")
    assert {texts[row["item_id"]]: row["grade"] for row in rows} == {"a a": 1, "b b": 1, "c c": 0}


def test_every_error_is_one_of_ours(tmp_path):
    """Bytes at random end in an error that a person can read, whatever the format."""
    for name in FORMATS:
        (tmp_path / name).mkdir()
        files = SHAPES[name].write(tmp_path / name)
        for file in files:
            whole = file.read_bytes()
            for cut in (0, 1, len(whole) // 2, len(whole) - 2):
                file.write_bytes(whole[:cut])
                try:
                    run_import(name, files, None, params=SHAPES[name].params, fields=SHAPES[name].fields)
                except DarlError as err:
                    assert err.what and err.todo
            file.write_bytes(whole)
