"""Files as people have them: exports, spreadsheets and logs with gaps, and what an import makes of them."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.errors import InputError, UsageError
from tests.helpers.data_shapes import (
    PRODUCTS,
    SHAPES,
    esci_examples,
    esci_products,
    parquet,
    plain,
    table,
    ubi_event,
    ubi_queries,
    write_trec,
    write_ubi,
)
from tests.helpers.files import read_rows, write_rows
from trainer.data.importers import run_import
from trainer.data.importers.search_relevance import cut_custom_fields

ITEMS = [{"id": p["sku"], "title": p["title"]} for p in PRODUCTS]
QUEPID = {"item_id": "docid", "grade": "rating"}
SKU = {"id": "sku"}


def items(folder):
    return write_rows(folder / "items.jsonl", ITEMS)


def written(folder, text, name="j.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def judged(folder, text, name="j.csv", *, encoding="utf-8", **options):
    """Import a file of judgments with three items; pairs and grades in the order of the file."""
    done = run_import("jsonl", [written(folder, text, name, encoding), items(folder)], folder / "out", **options)
    rows = read_rows(folder / "out" / "judgments.jsonl")
    return done, [(row["query"], row["item_id"], row["grade"]) for row in rows]


# Rows without a judgment


def test_a_spreadsheet_or_quepid_export_with_unrated_documents(tmp_path):
    text = 'query,docid,rating\nshoe,p1,2\nshoe,p3,\nshoe,p2," "\nmug,,\nhat\nshoe,p2,"1"\n'
    done, rows = judged(tmp_path, text, fields=QUEPID)
    assert rows == [("shoe", "p1", 2), ("shoe", "p2", 1)]
    assert done.target.counts == {"unjudged_rows": 4}


def test_null_absent_and_nan_grades(tmp_path):
    rows = [{"query": "shoe", "item_id": "p1", "grade": grade} for grade in ("2", None, "")] + [
        {"query": "shoe", "item_id": "p3"}
    ]
    judgments = write_rows(tmp_path / "j.jsonl", rows)
    assert run_import("jsonl", [judgments, items(tmp_path)], None).target.counts == {"unjudged_rows": 3}
    frame = parquet(
        tmp_path / "j.parquet", [{"query": "shoe", "item_id": "p1", "grade": g} for g in (2.0, float("nan"))]
    )
    assert run_import("jsonl", [frame, items(tmp_path)], None).target.counts == {"unjudged_rows": 1}
    write_rows(tmp_path / "j.jsonl", rows[3:])
    with pytest.raises(InputError, match=r"j.jsonl, line 1: there is no field 'grade'. Map it with --field"):
        run_import("jsonl", [judgments, items(tmp_path)], None)


def test_grades_in_quotes(tmp_path):
    _, rows = judged(tmp_path, 'query, item_id, grade\nshoe, p1, "2"\n"a, b", p2, "1"\n')
    assert rows == [("shoe", "p1", 2), ("a, b", "p2", 1)]
    line = json.dumps({"query": "shoe", "item_id": "p1", "grade": '"fits"'})
    file = written(tmp_path, line, "j.jsonl")
    assert run_import("jsonl", [file, items(tmp_path)], None, params={"labels": "no,fits"}).counts.grades == [0, 1]
    lists = workbench(tmp_path, ("shoe", "p1", '"1.0"'))
    assert run_import("search-relevance", [lists, items(tmp_path)], None).counts.grades == [0, 1]


def test_a_grade_without_an_item_or_query_is_an_error(tmp_path):
    for row, message in (("shoe,,2", "field 'item_id' is missing or empty"), (",p1,2", "field 'query' is empty")):
        with pytest.raises(InputError, match=f"line 2: {message}"):
            judged(tmp_path, f"query,item_id,grade\n{row}\n")


def test_an_unjudged_row_still_has_its_item(tmp_path):
    text = "query,item_id,grade,title\nshoe,p1,1,Trail shoe\nshoe,p2,,Road shoe\n"
    run_import("jsonl", [written(tmp_path, text)], tmp_path / "out")
    assert [row["id"] for row in read_rows(tmp_path / "out" / "items.jsonl")] == ["p1", "p2"]


def workbench(folder, *ratings, name="list.json"):
    entries = [{"query": query, "ratings": [{"docId": item, "rating": rating}]} for query, item, rating in ratings]
    return written(folder, json.dumps({"name": "l", "judgmentRatings": entries}), name)


def test_null_ratings_of_the_workbench(tmp_path):
    lists = workbench(tmp_path, ("shoe", "p1", "1.0"), ("shoe", "p2", None), ("hat", "p3", ""))
    done = run_import("search-relevance", [lists, items(tmp_path)], None)
    assert done.counts.judgments == 1
    assert (done.target.counts["unjudged_ratings"], done.target.counts["judgment_lists"]) == (2, 1)


@pytest.mark.parametrize(
    "ratings", [[{"docId": "p1", "rating": "1.0"}, {"docId": "p2", "rating": None}], {"p1": "1.0", "p2": None}]
)
def test_ratings_of_the_workbench_by_query(tmp_path, ratings):
    """As files of its first versions have them, and as some write the body of an import."""
    document = {"name": "l", "type": "IMPORT_JUDGMENT", "judgmentRatings": {"shoe": ratings, "hat": []}}
    lists = written(tmp_path, json.dumps(document), "list.json")
    done = run_import("search-relevance", [lists, items(tmp_path)], tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "judgments.jsonl")
    assert [(row["query"], row["item_id"], row["grade"]) for row in rows] == [("shoe", "p1", 1)]
    counts = done.target.counts
    assert (counts["unjudged_ratings"], counts["queries_without_ratings"]) == (1, 1)


def test_a_field_inside_an_object_by_its_path(tmp_path):
    rows = [{"search": {"text": "shoe"}, "hit": {"doc": {"id": f"p{n}"}}, "grade": n % 2} for n in (1, 2)]
    names = {"query": "search.text", "judgments.item_id": "hit.doc.id"}
    for file in (write_rows(tmp_path / "j.jsonl", rows), parquet(tmp_path / "j.parquet", rows)):
        out = tmp_path / file.suffix
        run_import("jsonl", [file, items(tmp_path)], out, fields=names)
        found = [(row["query"], row["item_id"], row["grade"]) for row in read_rows(out / "judgments.jsonl")]
        assert found == [("shoe", "p1", 1), ("shoe", "p2", 0)]
    with pytest.raises(InputError, match=r"j.jsonl, line 1: there is no field 'hit.id'. Map it with --field"):
        run_import("jsonl", [file.with_suffix(".jsonl"), items(tmp_path)], None, fields=names | {"item_id": "hit.id"}
                   | {"judgments.item_id": "hit.id"})  # fmt: skip


@pytest.mark.parametrize("total", [7, {"value": 7, "relation": "eq"}])
def test_a_search_answer_with_only_some_of_its_hits_is_told_of(tmp_path, total):
    hits = [{"_index": "i", "_id": item["id"], "_source": item} for item in ITEMS]
    answer = {"hits": {"total": total, "hits": hits}}
    judgments = write_rows(tmp_path / "j.jsonl", [{"query": "shoe", "item_id": "p1", "grade": n} for n in (1,)])
    file = written(tmp_path, json.dumps(answer), "items.json")
    notes = run_import("jsonl", [judgments, file], None).target.notes
    assert [note for note in notes if f"items.json holds {len(ITEMS)} of the 7 hits that its search found" in note]
    pages = [{"hits": {"total": len(ITEMS), "hits": [hit]}} for hit in hits]  # of a scroll: complete together
    file = write_rows(tmp_path / "pages.jsonl", pages)
    assert not [note for note in run_import("jsonl", [judgments, file], None).target.notes if "hits" in note]


def test_esci_flags_as_a_data_frame_writes_them(tmp_path):
    products = parquet(tmp_path / "p.parquet", esci_products())
    for flag in (1.0, True, "1", "1.0"):
        rows = [row | {"small_version": flag} for row in esci_examples() if row["small_version"] == 1]
        rows.append(rows[0] | {"product_id": "B2", "query_id": 1, "esci_label": None})
        done = run_import("esci", [parquet(tmp_path / "e.parquet", rows), products], None)
        assert done.counts.judgments == 4 and done.target.counts["unjudged_rows"] == 1
    odd = parquet(tmp_path / "e.parquet", [esci_examples()[0] | {"small_version": 2}])
    with pytest.raises(InputError, match="row 1: field 'small_version' is 2, neither 0 nor 1"):
        run_import("esci", [odd, products], None)


def test_wands_rows_without_a_label(tmp_path):
    files = SHAPES["wands"].write(tmp_path)
    files[2].write_text(files[2].read_text() + "9\t1\t0\t\n")
    done = run_import("wands", files, None)
    assert (done.counts.judgments, done.target.counts) == (3, {"unjudged_rows": 1})


def test_scales_that_begin_with_one_are_pointed_out(tmp_path):
    done, _ = judged(tmp_path, "query,item_id,grade\na,p1,1\na,p2,4\n")
    assert "pass --set labels=1,2,3,4" in done.target.notes[0] and "grade below 1" in done.target.notes[0]
    file = written(tmp_path, "query,item_id,grade\na,p1,1\na,p2,4\n")
    files = [file, items(tmp_path)]
    assert run_import("jsonl", files, None, params={"labels": "1,2,3,4"}).counts.grades == [1, 0, 0, 1]
    assert not run_import("jsonl", files, None, params={"labels": "1,2,3,4"}).target.notes
    written(tmp_path, "query,item_id,grade\na,p1,0\na,p2,4\n")
    assert not run_import("jsonl", files, None).target.notes


# Qrels


@pytest.mark.parametrize(
    "head", ["", "query-id\tcorpus-id\tscore\n", "topic_id iteration doc_id relevance\n", "query doc rel\n"]
)
def test_qrels_with_a_header(head, tmp_path):
    files = write_trec(tmp_path)
    files[0].write_text(head + '301 0 d1 "2"\n302 0 d2 1.0\n')
    assert run_import("trec", files, None).counts.grades == [0, 1, 1]


@pytest.mark.parametrize("value", ["-1", "-1.0", "-2.00"])
def test_negative_grades_however_they_are_written(value, tmp_path):
    files = write_trec(tmp_path)
    files[0].write_text(files[0].read_text() + f"302 0 d1 {value}\n")
    with pytest.raises(InputError, match=rf"line 5: grade {value} is below 0. Pass --set negative=zero or drop"):
        run_import("trec", files, None)
    assert run_import("trec", files, None, params={"negative": "zero"}).counts.grades == [2, 1, 1]
    assert run_import("trec", files, None, params={"negative": "drop"}).counts.grades == [1, 1, 1]


def test_qrels_that_are_no_judgments_of_ours(tmp_path, darl):
    for text in ("301 0 d1 2\n", "query-id\tcorpus-id\tscore\n301\td1\t1\n"):
        qrels = written(tmp_path, text, "qrels.tsv")
        said = darl("judge", qrels, "--grades", "no,yes", "--out", tmp_path / "w")
        assert said.code == 1 and "line 1: not JSON" in said.err
        assert "This looks like qrels: convert them with darl import trec" in said.err
    said = darl("import", "jsonl", written(tmp_path, "301 0 d1 2\n", "a.qrels"), items(tmp_path), "--dry-run")
    assert "a.qrels, line 1: not JSON" in said.err and "This looks like qrels" in said.err
    said = darl("judge", written(tmp_path, "query;item_id\na;b\n"), "--grades", "no,yes", "--out", tmp_path / "w")
    assert "This looks like a table: convert it with darl import jsonl" in said.err


# Ids that a program has changed


@pytest.mark.parametrize(("given", "there"), [("1993197.0", "1993197"), ("7", "0007"), ("0007", "7"), ("b1", "B1")])
def test_ids_that_a_spreadsheet_has_changed(given, there, tmp_path):
    judgments = write_rows(tmp_path / "j.jsonl", [{"query": "a", "item_id": given, "grade": 1}])
    catalogue = write_rows(tmp_path / "i.jsonl", [{"id": there, "title": "some words"}])
    message = f"item '{given}' is not in the items. There is '{there}': one of the two files was saved with ids that a"
    with pytest.raises(InputError, match=message):
        run_import("jsonl", [judgments, catalogue], None)
    with pytest.raises(InputError, match=rf"no judgments left to write .*There is '{there}'"):
        run_import("jsonl", [judgments, catalogue], None, missing="drop")


def test_topics_that_a_program_has_changed(tmp_path):
    files = write_trec(tmp_path)
    files[0].write_text("301.0 0 d1 2\n")
    with pytest.raises(InputError, match=r"line 1: there is no topic '301.0'. There is '301'"):
        run_import("trec", files, None)


# Columns of the judgment in rows that also hold the item

RATERS = (
    "query,docid,title,rating,agent_1_rating\n"
    "shoe,p1,Trail running shoe,2,2\nboot,p1,Trail running shoe,0,1\nboot,p2,Winter boot,2,2\n"
)


def test_the_differing_column_is_named_and_can_be_left_out(tmp_path):
    file = written(tmp_path, RATERS)
    with pytest.raises(InputError) as caught:
        run_import("jsonl", [file], None, fields=QUEPID)
    assert str(caught.value) == (
        f"{file}, line 3: item 'p1' appears twice: field 'agent_1_rating' is '1' here, but was '2' "
        f"(first: {file}, line 2). This looks like a part of the judgment: pass --drop-columns agent_1_rating."
    )
    done = run_import("jsonl", [file], tmp_path / "out", fields=QUEPID, dropped=["agent_1_rating"])
    assert (done.counts.judgments, done.counts.items) == (3, 2)
    assert read_rows(tmp_path / "out" / "items.jsonl")[0] == {"id": "p1", "title": "Trail running shoe"}


def test_raters_are_guessed_together_and_other_columns_are_only_named(tmp_path):
    head, *rows = RATERS.splitlines()
    more = "\n".join([f"{head},Explanation", *(f"{row},words {n}" for n, row in enumerate(rows))])
    with pytest.raises(InputError, match="--drop-columns agent_1_rating,Explanation"):
        run_import("jsonl", [written(tmp_path, more)], None, fields=QUEPID)
    changed = RATERS.replace("boot,p1,Trail running shoe,0,1", "boot,p1,Another shoe,0,1")
    with pytest.raises(
        InputError, match=r"field 'title' is 'Another shoe' here.* and so do 'agent_1_rating'. Keep one"
    ):
        run_import("jsonl", [written(tmp_path, changed)], None, fields=QUEPID)


def test_queries_of_triples_that_a_program_has_changed(tmp_path):
    rows = {"t.tsv": [("1.0", "a", "b")], "q.tsv": [("1", "shoe")], "c.tsv": [("a", "x y"), ("b", "y z")]}
    files = [plain(tmp_path / name, lines) for name, lines in rows.items()]
    with pytest.raises(InputError, match=r"t.tsv, line 1: there is no query '1.0'. There is '1': one"):
        run_import("triples", files, None)


def test_columns_that_cannot_be_left_out(tmp_path):
    files = [written(tmp_path, RATERS)]
    for name, message in (
        ("rating", "column 'rating' cannot be left out: it is the field 'grade'"),
        ("agent_2_rating", "no row has the column 'agent_2_rating'. Correct --drop-columns"),
    ):
        with pytest.raises(UsageError, match=message):
            run_import("jsonl", files, None, fields=QUEPID, dropped=["agent_1_rating", name])


# Encodings, delimiters and documents


@pytest.mark.parametrize(
    ("encoding", "where", "what", "likely"),
    [
        ("cp1252", ", line 3", "not UTF-8 at byte 4 (0xE9)", "cp1252"),
        ("utf-16", ", line 1", "not UTF-8 at byte 1 (0xFF)", "utf-16"),
        ("utf-16-le", ", line 1", "not UTF-8 at byte 2 (0x00)", "utf-16-le"),
        ("utf-16-be", ", line 1", "not UTF-8 at byte 1 (0x00)", "utf-16-be"),
    ],
)
def test_other_encodings_are_named_and_read(encoding, where, what, likely, tmp_path):
    text = "query,item_id,grade\nshoe,p1,1\ncafé,p2,2\n"
    file = written(tmp_path, text, encoding=encoding)
    with pytest.raises(InputError) as caught:
        run_import("jsonl", [file, items(tmp_path)], None)
    assert (caught.value.where, caught.value.what) == (f"{file}{where}", what)
    assert (
        f"pass --encoding judgments={likely}" in caught.value.todo or f"pass --encoding {likely}" in caught.value.todo
    )
    done, rows = judged(tmp_path, text, encoding=encoding, encodings={"judgments": likely})
    assert rows == [("shoe", "p1", 1), ("café", "p2", 2)]


def test_jsonl_documents_and_qrels_in_another_encoding(tmp_path):
    line = json.dumps({"query": "café", "item_id": "p1", "grade": 1}, ensure_ascii=False)
    for name, encoding in (("j.jsonl", "utf-16"), ("j.json", "cp1252"), ("j.jsonl", "cp1252")):
        file = written(tmp_path, line + "\n", name, encoding)
        with pytest.raises(InputError, match=f"line 1: not UTF-8 at byte .*Pass --encoding (judgments=)?{encoding}"):
            run_import("jsonl", [file, items(tmp_path)], None)
        done = run_import("jsonl", [file, items(tmp_path)], None, encodings={"judgments": encoding})
        assert done.counts.judgments == 1
    files = write_trec(tmp_path)
    files[0].write_bytes(files[0].read_text().encode("utf-16"))
    assert run_import("trec", files, None, encodings={"qrels": "utf-16"}).counts.judgments == 3


def test_encodings_that_do_not_fit(tmp_path):
    files = [written(tmp_path, "query,item_id,grade\nshoe,p1,1\n"), items(tmp_path)]
    with pytest.raises(InputError, match=r"j.csv: not utf-16. Pass --encoding judgments=NAME"):
        run_import("jsonl", files, None, encodings={"judgments": "utf-16"})
    for encodings, message in (
        ({"*": "utf-7000"}, "there is no encoding 'utf-7000'"),
        ({"*": "base64"}, "there is no encoding 'base64'"),
        ({"judgment": "cp1252"}, "format 'jsonl' reads no file 'judgment'. Did you mean 'judgments'"),
    ):
        with pytest.raises(UsageError, match=message):
            run_import("jsonl", files, None, encodings=encodings)


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_delimiters_are_found(sign, tmp_path):
    text = sign.join(["query", '"item, or ""id"""', "grade"]) + "\n" + sign.join(["shoe", "p1", "2"]) + "\n"
    fields = {"item_id": 'item, or "id"'}
    _, rows = judged(tmp_path, text, fields=fields)
    assert rows == [("shoe", "p1", 2)]


def test_a_first_line_that_names_the_delimiter(tmp_path):
    text = "sep=;\r\n\r\nquery, as typed;item_id;grade\r\nshoe;p1;2\r\nhat;p2\r\n"
    with pytest.raises(InputError, match="j.csv, line 5: 2 cells for 3 columns"):
        judged(tmp_path, text, fields={"query": "query, as typed"})
    _, rows = judged(tmp_path, text.replace("hat;p2", "hat;p2;0"), fields={"query": "query, as typed"})
    assert rows == [("shoe", "p1", 2), ("hat", "p2", 0)]


ROWS = [{"query": "shoe", "item_id": "p1", "grade": 2}, {"query": "hat", "item_id": "p3", "grade": 0}]
DOCUMENTS = {
    "list": json.dumps(ROWS),
    "list on lines": json.dumps(ROWS, indent=1),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "answer": json.dumps(
        {"took": 1, "hits": {"hits": [{"_id": str(n), "_source": row} for n, row in enumerate(ROWS)]}}
    ),
    "bulk": "".join(json.dumps({"index": {"_id": n}}) + "\n" + json.dumps(row) + "\n" for n, row in enumerate(ROWS)),
}


@pytest.mark.parametrize("shape", DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_in_every_shape(shape, indent, tmp_path):
    text = DOCUMENTS[shape]
    if indent and shape in ("list", "answer"):
        text = json.dumps(json.loads(text), indent=indent)
    _, rows = judged(tmp_path, text, "j.json")
    assert rows == [("shoe", "p1", 2), ("hat", "p3", 0)]


def test_ids_of_exported_documents(tmp_path):
    answer = {"hits": {"hits": [{"_id": p["sku"], "_source": {"title": p["title"]}} for p in PRODUCTS]}}
    bulk = "".join(
        json.dumps({"index": {"_id": p["sku"]}}) + "\n" + json.dumps({"title": p["title"]}) + "\n" for p in PRODUCTS
    )
    judgments = write_rows(tmp_path / "j.jsonl", ROWS)
    for name, text in (("i.json", json.dumps(answer)), ("i.ndjson", bulk)):
        done = run_import("jsonl", [judgments, written(tmp_path, text, name)], None, fields={"items.id": "_id"})
        assert (done.counts.items, done.counts.judgments) == (3, 2)
    delete = written(tmp_path, '{"delete": {"_id": "1"}}\n', "i.ndjson")
    with pytest.raises(InputError, match="i.ndjson, line 1: a bulk action 'delete' has no document"):
        run_import("jsonl", [judgments, delete], None)


@pytest.mark.parametrize(
    ("name", "number", "text", "message"),
    [
        ("trec", 2, "<DOC>\n<DOCNO> d1 </DOCNO>\n</DOC>\n", "this is SGML or XML, such as TREC's topics and documents"),
        ("trec", 1, "\n<top>\n<num> Number: 301\n", "this is SGML or XML"),
        ("jsonl", 0, "# made by hand\n2 qid:10 1:0.031 2:0.6 # d1\n", "these are feature vectors in RankLib's format"),
        ("jsonl", 0, json.dumps({"requests": [{"id": "a", "request": {}, "ratings": []}], "metric": {}}),
         "this is a request to the rank evaluation API"),
        ("search-relevance", 0, json.dumps({"index": "i", "id_field": "id", "topics": [{"query_groups": []}]}),
         "this is a ratings file of the Rated Ranking Evaluator"),
    ],
)  # fmt: skip
def test_formats_that_are_recognised_but_not_imported(name, number, text, message, tmp_path):
    files = SHAPES[name].write(tmp_path)
    files[number].write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        run_import(name, files, None, params=SHAPES[name].params, fields=SHAPES[name].fields)
    assert "which is not imported" in str(caught.value) or "is not imported" in str(caught.value)
    assert str(files[number]) in caught.value.where and caught.value.todo


# Clicks


def clicks(folder, events, searches=None, **params):
    files = write_ubi(folder)
    searches = searches or ubi_queries()
    write_rows(files[0], searches) if isinstance(searches, list) else None
    paths = [files[0], events if not isinstance(events, list) else write_rows(files[1], events), files[2]]
    return run_import("ubi", paths, folder / "out", params=params, fields=SKU)


def found(folder):
    return {row["item_id"]: (row["impressions"], row["clicks"]) for row in read_rows(folder / "out/judgments.jsonl")}


CLICKED = [ubi_event(f"s{n}", "p1", 1) for n in range(4)]


def test_clicks_without_a_search_or_an_item_are_counted(tmp_path):
    lost = [ubi_event("", "p1", 1), ubi_event(None, "p1", 1), {k: v for k, v in CLICKED[0].items() if k != "query_id"}]
    nothing = [CLICKED[0] | {"event_attributes": attributes} for attributes in (
        None, {}, {"object": None}, {"object": {}}, {"object": {"object_id": ""}})]  # fmt: skip
    done = clicks(tmp_path, [*lost, *CLICKED, *nothing, {"message": "no action"}])
    counts = done.target.counts
    assert (counts["events_without_query_id"], counts["events_without_item"], counts["other_events"]) == (3, 5, 1)
    assert found(tmp_path) == {"p1": (10, 4), "p2": (10, 0)}


def test_searches_without_an_id_and_hits_without_one_are_counted(tmp_path):
    first = ubi_queries(1)[0]
    searches = [*ubi_queries(), first | {"query_id": ""}, {k: v for k, v in first.items() if k != "query_id"},
                first | {"query_id": "s99", "query_response_hit_ids": [None, "p1", ""]}]  # fmt: skip
    counts = clicks(tmp_path, CLICKED, searches).target.counts
    assert (counts["searches_without_id"], counts["hits_without_id"]) == (2, 2)
    assert found(tmp_path)["p1"] == (11, 4)


def views(make, ranks=(1, 2)):
    """Ten searches show p1 and p2 at these ranks; every event through ``make(search, item, rank, action)``."""
    shown = [
        make(f"s{n}", item, rank, "impression")
        for n in range(10)
        for item, rank in zip(("p1", "p2"), ranks, strict=True)
    ]
    return shown + [make(f"s{n}", "p1", ranks[0], "click") for n in range(4)]


def nested(position):
    def make(search, item, rank, action):
        return ubi_event(search, item, 0, action) | {
            "event_attributes": {"object": {"object_id": item}, **position(rank)}
        }

    return make


POSITIONS = {
    "ordinal": lambda rank: {"position": {"ordinal": rank}},
    "ordinal as text": lambda rank: {"position": {"ordinal": str(rank)}},
    "index": lambda rank: {"position": {"ordinal": {"index": rank}}},
    "rank": lambda rank: {"rank": rank},
}


@pytest.mark.parametrize("where", POSITIONS)
@pytest.mark.parametrize("lowest", [0, 1])
def test_ranks_wherever_they_stand_and_from_zero_or_one(where, lowest, tmp_path):
    """With max_rank 2 the second item counts and the third does not, whether the log counts from 0 or from 1."""
    make = nested(POSITIONS[where])
    events = views(make, (lowest, lowest + 1)) + [make("s1", "p3", lowest + 2, "impression")]
    done = clicks(tmp_path, events, shown_by="events", max_rank="2")
    assert found(tmp_path) == {"p1": (10, 4)}  # of p2 no click was expected
    assert done.target.counts["impressions_below_max_rank"] == 1
    assert done.target.counts["pairs_no_click_was_expected_of"] == 1


def test_impressions_without_a_rank_are_counted(tmp_path):
    make = nested(POSITIONS["ordinal"])
    lost = [
        make("s1", "p3", None, "impression"),
        ubi_event("s1", "p3", 1, "view") | {"event_attributes": {"object": {"object_id": "p3"}}},
    ]
    again = make("s1", "p1", 1, "impression")
    done = clicks(tmp_path, views(make) + lost + [again], shown_by="events")
    assert done.target.counts["impressions_without_rank"] == 2
    assert done.target.counts["repeated_impressions"] == 1


def test_a_log_as_a_table(tmp_path):
    """Columns with dots, and an object or a list as text."""
    searches = table(tmp_path / "q.csv", [
        {"query_id": f"s{n}", "user_query": "shoes", "query_response_hit_ids": '["p1", "p2"]'} for n in range(10)
    ])  # fmt: skip
    dotted = views(lambda search, item, rank, action: {
        "action_name": action, "query_id": search, "event_attributes.object.object_id": item,
        "event_attributes.position.ordinal": rank})  # fmt: skip
    flat = views(lambda search, item, rank, action: {
        "action_name": action, "query_id": search, "object_id": item, "rank": rank})  # fmt: skip
    text = views(lambda search, item, rank, action: {
        "action_name": action, "query_id": search, "event_attributes": json.dumps(
            {"object": {"object_id": item}, "position": {"ordinal": rank}})})  # fmt: skip
    catalogue = write_rows(tmp_path / "i.jsonl", PRODUCTS)
    for number, rows in enumerate((dotted, flat, text)):
        events = table(tmp_path / "e.csv", rows)
        for shown_by in ("hits", "events"):
            out = tmp_path / f"out{number}{shown_by}"
            run_import("ubi", [searches, events, catalogue], out, params={"shown_by": shown_by}, fields=SKU)
            assert [(r["item_id"], r["impressions"], r["clicks"]) for r in read_rows(out / "judgments.jsonl")] == [
                ("p1", 10, 4)
            ]


@pytest.mark.parametrize("shape", ["answer", "bulk"])
def test_a_log_as_an_answer_or_for_bulk(shape, tmp_path):
    files = write_ubi(tmp_path)
    paths = []
    for path, rows in zip(files, (ubi_queries(), CLICKED), strict=False):
        answer = json.dumps({"hits": {"hits": [{"_id": str(n), "_source": row} for n, row in enumerate(rows)]}})
        bulk = "".join(json.dumps({"index": {"_index": "ubi"}}) + "\n" + json.dumps(row) + "\n" for row in rows)
        paths.append(written(tmp_path, answer if shape == "answer" else bulk, f"{path.stem}.json"))
    done = run_import("ubi", [*paths, files[2]], tmp_path / "out", fields=SKU)
    assert done.counts.judgments == 2 and found(tmp_path)["p1"] == (10, 4)


# Custom fields of the workbench's queries


@pytest.mark.parametrize(
    ("given", "query", "custom"),
    [
        ('red shoes#{"referenceAnswer":""}', "red shoes", True),
        ('red shoes#{"referenceAnswer": "a # b", "n": "1"}', "red shoes", True),
        ("coffee cup#\nreferenceAnswer: x", "coffee cup", True),
        ("coffee cup#\n a: x\nb: #2\n", "coffee cup", True),
        ('learn C##{"a": ""}', "learn C#", True),
        ("learn C# fast", "learn C# fast", False),
        ("learn C#", "learn C#", False),
        ("#1 song", "#1 song", False),
        ("travel cup#steel mug", "travel cup#steel mug", False),
        ("a#{b}", "a#{b}", False),
        ("two\nlines # and\nmore", "two\nlines # and\nmore", False),
    ],
)
def test_custom_fields_are_cut(given, query, custom):
    assert cut_custom_fields(given) == (query, custom)


def test_custom_fields_in_an_import(tmp_path):
    lists = workbench(
        tmp_path, ('red shoes#{"referenceAnswer":""}', "p1", "1"), ("coffee cup#\nreferenceAnswer: x", "p2", "0"),
        ("travel cup#steel mug", "p3", "1"), ("learn C# fast", "p3", "0"), ("a C# book#for you", "p1", "0"),
    )  # fmt: skip
    files = [lists, items(tmp_path)]
    done = run_import("search-relevance", files, tmp_path / "out")
    queries = [row["query"] for row in read_rows(tmp_path / "out" / "judgments.jsonl")]
    assert queries == ["red shoes", "coffee cup", "travel cup#steel mug", "learn C# fast", "a C# book#for you"]
    assert (done.target.counts["queries_with_custom_fields"], done.target.counts["queries_with_a_hash"]) == (2, 2)
    assert done.target.notes == (
        "Queries with a # inside a word: 2, such as 'travel cup#steel mug'. Where a reference answer follows it, as "
        "in earlier versions of the workbench, set answers=cut.",
    )
    done = run_import("search-relevance", files, tmp_path / "cut", params={"answers": "cut"})
    queries = [row["query"] for row in read_rows(tmp_path / "cut" / "judgments.jsonl")]
    assert queries == ["red shoes", "coffee cup", "travel cup", "learn C# fast", "a C# book"] and not done.target.notes


# Objects as text


def test_a_field_that_is_an_object_is_named_by_path(tmp_path):
    rows = [{"id": p["sku"], "content": {"text": p["title"], "page": 1}} for p in PRODUCTS]
    files = [write_rows(tmp_path / "j.jsonl", ROWS), write_rows(tmp_path / "i.jsonl", rows)]
    assert run_import("jsonl", files, None).target.template.fields == ("content.text",)
    assert run_import("jsonl", files, None, params={"template": "=content.text,content.page"}).counts.items == 3
    message = (
        "template names 'content', which is an object in some items. Name a field inside it: content.text, content.p"
    )
    with pytest.raises(UsageError, match=message):
        run_import("jsonl", files, None, params={"template": "content"})
    with pytest.raises(
        UsageError, match="template names 'content.txt', which no item has. Did you mean 'content.text'"
    ):
        run_import("jsonl", files, None, params={"template": "content.txt"})


def test_a_field_that_is_an_object_in_a_later_item(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.importers.template.SAMPLE_ITEMS", 2)
    rows = [*({"id": row["id"], "about": row["title"]} for row in ITEMS[:2]), {"id": "p3", "about": [{"en": "coat"}]}]
    files = [write_rows(tmp_path / "j.jsonl", ROWS), write_rows(tmp_path / "i.jsonl", rows)]
    message = r"i.jsonl, line 3: field 'about' of item 'p3' is an object, not text. Name a field inside it .*: about.en"
    with pytest.raises(InputError, match=message):
        run_import("jsonl", files, None)
    with pytest.raises(InputError, match=message):
        run_import("jsonl", files, None, missing="drop")  # it has text


def test_a_number_may_be_named_in_the_template(tmp_path):
    rows = [row | {"price": 7, "sale": False} for row in ITEMS]
    files = [write_rows(tmp_path / "j.jsonl", ROWS), write_rows(tmp_path / "i.jsonl", rows)]
    done = run_import("jsonl", files, None, params={"template": "=title,price,sale"})
    assert done.target.template.fields == ("=title", "price", "sale")


def test_the_command_says_what_it_joined_and_passed_over(tmp_path, darl):
    file = written(tmp_path, RATERS + "mug,,,,\n")
    said = darl("import", "jsonl", file, "--field", "item_id=docid", "--field", "grade=rating", "--dry-run",
                "--drop-columns", "agent_1_rating")  # fmt: skip
    assert said.code == 0, said.err
    assert "joined with the items: 3 judgments matched, 0 did not\n" in said.out and "unjudged rows: 1\n" in said.out
    file = written(tmp_path, RATERS.replace("shoe", "crème"), encoding="cp1252")
    options = ["--field", "item_id=docid", "--field", "grade=rating", "--dry-run", "--drop-columns", "agent_1_rating"]
    assert "--encoding" in darl("import", "jsonl", file, *options).err
    for encoding in ("cp1252", "judgments=cp1252"):
        assert darl("import", "jsonl", file, *options, "--encoding", encoding).code == 0


def test_topics_and_triples_keep_their_tabs(tmp_path):
    """Files without a header are separated by tabs, whatever their first line holds."""
    files = write_trec(tmp_path)
    plain(files[1], [("301", "a;b;c;d, e, f"), ("302", "rain")])
    run_import("trec", files, tmp_path / "out")
    assert read_rows(tmp_path / "out" / "judgments.jsonl")[0]["query"] == "a;b;c;d, e, f"
