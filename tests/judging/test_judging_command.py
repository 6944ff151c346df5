"""``darl judge``: what it says, and how it ends."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from pathlib import Path

import pytest

from darl_opensearch.cli.judge import read_context
from tests.helpers.bundles import tiny_bundle
from tests.helpers.files import read_rows, write_rows
from tests.helpers.judging import endpoint, knowing, pairs, project, truth
from trainer.judging import JUDGES

GRADES = ("--grades", "irrelevant,related,fits")


@pytest.fixture
def darl(tmp_path, monkeypatch, darl):
    """``darl judge`` in the project's folder."""
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return functools.partial(darl, "judge")


def known(path, wrong: int = 0):
    rows = [{"query": r["query"], "item_id": r["item_id"],
             "grade": (truth(r["item_id"]) + (bool(wrong) and n % wrong == 0)) % 3}
            for n, r in enumerate([*pairs("task", 4, 3), *pairs("gold", 12, 3)])]  # fmt: skip
    return str(write_rows(path, rows))


def fill(path, share: float) -> int:
    text = path.read_bytes().decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=";" if text.startswith("grade;") else ","))
    count = round(share * (len(rows) - 1))
    for row in rows[1 : count + 1]:
        row[0] = str(truth(row[2].removeprefix("text of ")))
    filled = io.StringIO(newline="")
    csv.writer(filled, delimiter=";").writerows(rows)  # as a spreadsheet does where the comma is a decimal point
    path.write_text(filled.getvalue(), encoding="utf-8", newline="")
    return len(rows) - 1


def test_a_table_goes_out_and_comes_back(darl, tmp_path):
    words = ("tasks.jsonl", "--judge", "file", "--out", "work", "--gold", "gold.jsonl", *GRADES)
    code, out, err = darl(*words)
    assert code == 0 and "file: waiting for people" in out and "work/tasks.csv has 48 grades missing" in out and not err
    assert fill(tmp_path / "work" / "tasks.csv", 0.5) == 48
    code, out, _ = darl(*words, "--json")
    told = json.loads(out)
    assert code == 0 and told["pending"] and told["labels"] == 0
    fill(tmp_path / "work" / "tasks.csv", 1.0)
    code, out, _ = darl(*words)
    assert code == 0 and "file: used (kappa with gold is 1.00 [1.00, 1.00]" in out
    assert "12 pairs labelled, 0 not, 0 disagreements: work/judgments.jsonl" in out
    assert len(read_rows(tmp_path / "work" / "judgments.jsonl")) == 12


def workbench(path, *queries):
    entries = [{"query": query, "ratings": [{"docId": row["item_id"], "rating": str(truth(row["item_id"]))}]}
               for query, row in queries]  # fmt: skip
    path.write_text(json.dumps({"name": "l", "judgmentRatings": entries}))


def test_the_workbenchs_custom_fields_do_not_hide_its_ratings(darl, tmp_path):
    rows = pairs("task", 4, 3)
    workbench(
        tmp_path / "l.json", (rows[0]["query"] + '#{"referenceAnswer":""}', rows[0]),
        (rows[3]["query"] + "#\nreferenceAnswer: x", rows[3]), (rows[6]["query"] + "#steel mug", rows[6]),
    )  # fmt: skip
    words = ("tasks.jsonl", "--judge", "workbench", "--set", "workbench.path=l.json", "--trust", "workbench",
             "--out", "work", *GRADES)  # fmt: skip
    code, out, _ = darl(*words)
    assert code == 0 and "2 of 12 pairs graded, 0 skipped, 10 unanswered" in out
    assert "queries with custom fields: 2, queries with a hash: 1, judgments in the file: 3" in out
    assert "Queries with a # inside a word: 1, such as 'task 2#steel mug'" in out
    code, out, _ = darl(*words, "--set", "workbench.answers=cut")
    assert code == 0 and "3 of 12 pairs graded" in out


def test_labels_of_other_pairs_are_an_error(darl, tmp_path):
    rows = pairs("task", 4, 3)
    workbench(tmp_path / "l.json", ("another query", rows[0]))
    code, out, err = darl("tasks.jsonl", "--judge", "workbench", "--set", "workbench.path=l.json", "--trust",
                          "workbench", "--out", "work", *GRADES)  # fmt: skip
    assert (code, out) == (1, "")
    assert "none of the 12 pairs was answered. Existing labels are matched by query text and item id" in err
    report = json.loads((tmp_path / "work" / "report.json").read_text())
    assert report["judges"][0]["counts"]["judgments_in_the_file"] == 1


def test_a_refused_judge_ends_with_three(darl, tmp_path):
    known(tmp_path / "bad.jsonl", 2)
    code, out, err = darl("tasks.jsonl", "--answers", "bad.jsonl", "--gold", "gold.jsonl", "--out", "work", *GRADES)
    assert code == 3 and out == ""
    assert err.startswith("darl: work/report.json: no judge can be used: judge 'judgments': kappa with gold is ")
    assert json.loads((tmp_path / "work" / "report.json").read_text())["judges"][0]["verdict"] == "refused"
    code, _, _ = darl("tasks.jsonl", "--answers", "bad.jsonl", "--gold", "gold.jsonl", "--out", "work", *GRADES,
                      "--min-kappa", "-1")  # fmt: skip
    assert code == 0


def test_a_dry_run_says_calls_and_cost_and_asks_nobody(darl, tmp_path):
    with endpoint(knowing) as server:
        words = ("tasks.jsonl", "--judge", "llm:a", "--set", f"llm:a.url={server.url}", "--set", "llm:a.model=m",
                 "--set", "llm:a.price_in=2", "--gold", "gold.jsonl", "--out", "work", "--gold-pairs", "20",
                 *GRADES)  # fmt: skip
        code, out, _ = darl(*words, "--dry-run")
        assert code == 0 and out.startswith("llm:a: 32 pairs, 32 calls (0 pairs are cached), about ")
        assert "at the given prices" in out and not server.asked and not (tmp_path / "work").exists()
        code, out, _ = darl(*words, "--json")
        assert code == 0 and json.loads(out)["labels"] == 12 and len(server.asked) == 32
        code, out, _ = darl(*words, "--dry-run", "--json")
        assert json.loads(out)["judges"][0]["calls"] == 0 and json.loads(out)["dry_run"] is True
    assert (tmp_path / "work" / "llm.a.sqlite").exists()


def test_the_bundle_gives_grades_and_texts_of_gold(darl, tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle")
    names = bundle.card.scale.names
    fields = [spec.removeprefix("=") for spec in bundle.card.template.fields]
    rows = [
        {bundle.card.template.id_field: r["item_id"], **dict.fromkeys(fields, "some words")}
        for r in pairs("gold", 12, 3)
    ]
    write_rows(tmp_path / "items.jsonl", rows)
    gold = read_rows(tmp_path / "gold.jsonl")
    write_rows(tmp_path / "gold.jsonl", [{k: v for k, v in row.items() if k != "text"} for row in gold])
    words = ("tasks.jsonl", "--out", "work", "--gold", "gold.jsonl", "--bundle", "bundle")
    code, _, err = darl(*words)
    assert (
        code == 1
        and "gold.jsonl, line 1: field 'text' is empty or not text. Add the item's text, or pass the items" in err
    )
    code, out, err = darl(*words, "--items", "items.jsonl")
    assert code == 0, err
    table = (tmp_path / "work" / "tasks.csv").read_text(encoding="utf-8-sig")
    assert f"0 {names[0]} / " in table and "some words" in table


def test_a_guideline_that_is_no_text_is_named(darl, tmp_path):
    (tmp_path / "g.md").write_bytes(b"\xff\xfe")
    code, _, err = darl("tasks.jsonl", "--out", "work", "--guideline", "g.md", *GRADES)
    assert code == 2 and "g.md: the guideline cannot be read (not UTF-8). Check the path" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the grades are not known. Pass --bundle, or for example --grades no,yes"),
        (("--items", "gold.jsonl", *GRADES), "--items requires an item template. Pass --bundle"),
        (("--set", "file.format", *GRADES), "--set 'file.format' is not JUDGE.KEY=VALUE"),
        (("--set", "llm.model=x", *GRADES), "--set names 'llm', which is not one of the judges"),
        (("--set", "file.formt=x", *GRADES), "judge 'file' has no parameter 'formt'"),
        (("--set", "file.format=xls", *GRADES), "file.format is 'xls'. Choose csv or jsonl"),
        (("--judge", "llm", "--set", "llm.samples=many", *GRADES), "llm.samples is 'many', not a whole number"),
        (("--judge", "fiel", *GRADES), "unknown judge 'fiel'. Did you mean 'file'?"),
        (("--rater", "ann", *GRADES), "--rater applies only to the labelling page. Pass --web, or --judge web"),
        (("--judge", "ubi", *GRADES), "judge 'ubi' must be scored before use, but there is no gold"),
        (("--trust", "llm", *GRADES), "[judge] names 'llm', not one of the judges"),
    ],
)
def test_wrong_usage_ends_with_two(darl, words, message):
    code, out, err = darl("tasks.jsonl", "--out", "work", *words)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


# ---- the page of the docs


def test_items_bring_their_images_along(tmp_path, capsys):
    bundle = tiny_bundle(tmp_path / "b")
    rows = [{"id": "a", "name": "Bike", "image": " a.png "}, {"id": "b", "image": "b.png"},
            {"id": "c", "name": "Flood", "image": ["c.png"]}, {"id": "d", "name": "Storm"}]  # fmt: skip
    _, texts, images = read_context(None, bundle.path, [write_rows(tmp_path / "items.jsonl", rows)])
    assert images == {"a": "a.png", "b": "b.png"} and list(texts) == ["a", "c", "d"]
    assert "'image' of 1 items is not text: they are shown without one" in capsys.readouterr().err


def test_every_judge_and_parameter_is_in_judging_md():
    text = (Path(__file__).parents[2] / "docs" / "judging.md").read_text(encoding="utf-8")
    for name in JUDGES:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert JUDGES[name].summary.rstrip(".") in row and JUDGES[name].cite in re.sub(r"<(https\S+)>", r"\1", row)
        assert all(f"`{key}`" in row for key in JUDGES[name].params)
