"""``darl select``: options from the table, what it prints, and what it says to a mistake."""

from __future__ import annotations

import dataclasses
import json

import click
import pytest

from darl_opensearch.cli import select as command
from tests.dasa.test_select import FAMILIAR, Log
from tests.helpers.bundles import ITEMS
from trainer.dasa.config import SelectConfig
from trainer.dasa.report import DROPPED, SelectReport

SMALL = (
    "--budget",
    6,
    "--items-per-query",
    2,
    "--control-items",
    2,
    "--depth",
    4,
    "--control-queries",
    2,
    "--noise",
    0,
)


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path / "spool.db")
    made.strange(6)
    made.add("a plain one", FAMILIAR)
    yield made
    made.spool.close()


@pytest.fixture
def items(tmp_path):
    (path := tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return path


def test_select(log, items, tiny, tmp_path, darl):
    (judged := tmp_path / "judged.jsonl").write_text(json.dumps({"query": "quasar number0 a0"}) + "\n")
    arguments = ("select", tiny.path, "--spool", log.path, "--items", items, "--judged", judged, *SMALL)
    dry = darl(*arguments, "--dry-run", "--json")
    assert dry.code == 0
    told = json.loads(dry.out)
    assert told["dry_run"] and told["out"] is None and told["dropped"]["judged"] == 1
    assert told["log"]["queries"] == 7 == sum(told["dropped"].values()) + told["candidates"]
    out = tmp_path / "out"
    said = darl(*arguments, "--out", out, "--param", "traffic=0.0", "--selector", "herding")
    assert said.code == 0 and said.err == ""
    assert "7 requests for 7 distinct queries in" in said.out and "by herding." in said.out
    assert json.loads((out / "report.json").read_text())["selector"]["params"]["traffic"] == 0.0
    assert {path.name for path in out.iterdir()} == {
        "selected.jsonl",
        "control.jsonl",
        "kept.jsonl",
        "map.json",
        "report.json",
    }
    again = darl(*arguments, "--out", out, "--param", "traffic=0.0")
    assert again == said  # done is done


def test_nothing_to_select_is_no_failure(tiny, tmp_path, darl):
    log = Log(tmp_path / "spool.db")
    log.add("a plain one", FAMILIAR)
    log.spool.close()
    said = darl("select", tiny.path, "--spool", log.path, "--out", tmp_path / "out", *SMALL)
    assert said.code == 0
    took = "the control arm, which is sampled first, took all 1 new queries: ask for fewer control queries"
    assert f"Nothing is selected: {took}, or wait for more traffic." in said.out


@pytest.mark.parametrize(
    ("report", "why"),
    [
        ({"selected": {"pairs": 3}}, ""),
        ({"dry_run": True}, ""),
        ({"log": {"queries": 0}}, "the log holds no queries from this period"),
        ({"candidates": 4}, "the budget is too small for the items of any of the 4 candidate queries"),
        ({"dropped": {"not_flagged": 1}}, "no new query is out of distribution"),
        ({"control": {"drawn": 0}}, "no new query is out of distribution"),  # all of it was judged
        ({}, "the control arm, which is sampled first, took all 7 new queries"),
    ],
)
def test_why_nothing_was_selected(report, why):
    values = {
        "log": {"queries": 9}, "dropped": {}, "candidates": 0, "selected": {"pairs": 0}, "control": {"drawn": 7},
        "selector": {}, "digest": "", "dry_run": False,
    } | report  # fmt: skip
    values["dropped"] = dict.fromkeys(DROPPED, 0) | {"control": 7} | values["dropped"]
    said = SelectReport(**values).why_empty
    assert said.startswith(why) and bool(said) == bool(why)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "No output folder is given. Pass --out or --dry-run."),
        (("--dry-run", "--param", "traffic"), "'traffic' is not key=value. Write for example"),
        (("--dry-run", "--param", "trafic=1"), "selector 'herding' has no parameter 'trafic'. It takes over, traffic"),
        (("--dry-run", "--selector", "herdin"), "unknown selector 'herdin'. Did you mean 'herding'?"),
        (("--dry-run", "--since", "soon"), "'soon' is neither a span (30m, 12h, 7d, 4w) nor a date"),
    ],
)  # fmt: skip
def test_mistakes(arguments, message, log, tiny, darl):
    said = darl("select", tiny.path, "--spool", log.path, *arguments)
    assert said.code == 2
    assert message.lower() in " ".join(said.err.split()).lower()


def test_every_key_of_the_table_is_an_option():
    options = {option.name: option for option in command.cli.get_params(click.Context(command.cli))}
    for field in dataclasses.fields(SelectConfig):
        option = options[field.name]
        assert option.help and option.envvar == (f"DARL_SELECT_{field.name.upper()}",)
