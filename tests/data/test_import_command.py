"""``darl import`` from the shell, up to a training run that accepts what it wrote."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.cli.import_ import cli
from tests.helpers.data_shapes import SHAPES, write_jsonl
from tests.helpers.trained import SAMPLE
from trainer.data.importers import IMPORTERS
from trainer.data.importers.gathering import MISSING, REPEATS

FIELDS = ["--field", "query=q", "--field", "id=sku", "--set", "labels=irrelevant,related,fits"]


def test_the_help_names_every_format_and_choice():
    for name in IMPORTERS:
        assert name in cli.help
    choices = {option.name: option.type.choices for option in cli.params if hasattr(option.type, "choices")}
    assert (tuple(choices["repeats"]), tuple(choices["missing"])) == (REPEATS, MISSING)


def test_the_sample_can_be_imported_and_trained_on(tmp_path, checkpoint, darl):
    out = tmp_path / "Insurance 2"
    said = darl("import", "jsonl", SAMPLE / "judgments.jsonl", SAMPLE / "items.jsonl",
                    "--out", out, "--json", "--set", "labels=irrelevant,related,fits")  # fmt: skip
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result["template"][0] == "=name" and [grade["name"] for grade in result["grades"]][2] == "fits"
    assert 'name = "insurance-2"' in (out / "darl.toml").read_text()
    said = darl("train", out / "darl.toml", "--dry-run", "--json",
                    "--set", f'model.base="{checkpoint}"')  # fmt: skip
    assert said.code == 0, said.err
    data = json.loads(said.out)["data"]
    # A share of the queries is held out as traffic: their judgments are not trained on.
    assert data["items"]["count"] == result["items"]
    assert 0 < data["train"]["pairs"] + data["dev"]["pairs"] < result["judgments"]


def test_a_dry_run_says_so(tmp_path, darl):
    files = write_jsonl(tmp_path)
    said = darl("import", "jsonl", *files, *FIELDS, "--dry-run")
    assert said.code == 0
    assert "3 judgments of 2 queries, 3 items" in said.out and said.out.endswith("Nothing was written.\n")


def test_a_terminal_does_not_obey_the_data(tmp_path, darl):
    files = write_jsonl(tmp_path)
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    files[1].write_text("".join(json.dumps({"sku": row["sku"], "a\x9b2J": "two words"}) + "\n" for row in rows))
    said = darl("import", "jsonl", *files, *FIELDS, "--dry-run")
    assert said.code == 0 and "text of an item: a\ufffd2J\n" in said.out


def test_weak_grades_are_noted_on_stderr(tmp_path, darl):
    files = SHAPES["ubi"].write(tmp_path)
    said = darl("import", "ubi", *files, "--field", "id=sku", "--out", tmp_path / "out")
    assert said.code == 0 and "Grades from clicks are weak" in said.err
    assert "clicks on nothing shown: 1" in said.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no output folder is given. Pass --out or --dry-run"),
        (["--dry-run", "--set", "labels"], 2, "--set 'labels' has no =. Write --set key=value"),
        (["--dry-run", "--set", "labels=a,b", "--set", "labels=b,a"], 2, "--set sets 'labels' twice. Keep one"),
        (
            ["--dry-run", *FIELDS[:4], "--set", "labels=no,fits,Fits"],
            2,
            "labels no, fits, Fits differ only in case",
        ),
        (["--dry-run", "--field", "=q"], 2, "--field '=q' has no ="),
        (["--dry-run", "--name", "No good"], 1, "invalid model name 'No good'"),
        (["--dry-run"], 1, "judgments.jsonl, line 1: there is no field 'query'. Map it with --field"),
    ],
)
def test_mistakes_end_in_one_line(arguments, code, message, tmp_path, darl):
    files = write_jsonl(tmp_path)
    said = darl("import", "jsonl", *files, *arguments)
    assert (said.code, said.out) == (code, "")
    assert message in said.err and said.err.count("\n") == 1
