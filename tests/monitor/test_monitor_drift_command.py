"""``darl monitor`` with drift tests: text, JSON, page and exit codes."""

from __future__ import annotations

import importlib
import json
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from click.testing import CliRunner

from darl_opensearch.cli.monitor import cli as monitor
from darl_opensearch.monitor.drift import DriftConfig, drift
from darl_opensearch.monitor.render_drift import render_drift
from darl_opensearch.ood.store import SpoolStore
from tests.helpers.drift import DAY, STRANGE, write_log

UNTIL = DAY + timedelta(days=60)


@pytest.fixture(scope="module")
def log(world, tmp_path_factory):
    """Three quiet days and one of other words, asked with markup; a second version's day."""
    rng = np.random.default_rng(1)
    requests = world.traffic(3, 100, seed=3)
    strange = [f"<b>{q}" for q in world.queries(100, rng, STRANGE)]
    path = write_log(tmp_path_factory.mktemp("log") / "log.db", requests, world.policy())
    write_log(path, world.day(3, strange, push=1.0), world.policy())
    return write_log(path, world.day(1, world.queries(60, rng)), world.policy(version="2"))


def run(*arguments):
    return CliRunner().invoke(monitor, [str(a) for a in arguments])


def test_text_has_a_line_a_window_and_the_decision(world, log):
    said = run("--spool", log, "--bundle", world.bundle.path, "--window", "1d", "--one-in", 50)
    assert said.exit_code == 0, said.output
    assert "Drift  against the reference of tiny 1" in said.stdout
    assert "level 1/50 per window: one false alarm in 50 windows without drift" in said.stdout
    lines = [line for line in said.stdout.splitlines() if re.match(r"2026-03-0\d 00:00 to .* tiny", line)]
    table = [line for line in lines if not line.endswith(":")]
    assert len(table) == 5 and table[-1].endswith("DRIFT") and sum(line.endswith("no drift") for line in table) == 4
    assert "a classifier tells window and reference apart with AUC" in said.stdout
    assert "not the bundle's version: only shares were tested" in said.stdout
    assert said.stdout.rstrip().endswith("The latest window has drifted: a cycle is due.")


def test_without_a_bundle_the_share_is_tested(log):
    said = run("--spool", log, "--window", "1d")
    assert "against alpha alone; --bundle also tests features" in said.stdout
    data = json.loads(run("--spool", log, "--window", "1d", "--json").stdout)["drift"]
    assert {t["test"] for w in data["windows"] for t in w["tests"]} == {"share"}


def test_json_is_one_object_with_both_reports(world, log):
    data = json.loads(run("--spool", log, "--bundle", world.bundle.path, "--window", "1d", "--json").stdout)
    assert data["drift"]["start_cycle"] and data["drift"]["bundle"] == "tiny 1"
    assert {m["version"] for m in data["models"]} == {"1", "2"}
    assert [w["verdict"] for w in data["drift"]["windows"] if w["version"] == "1"] == ["no drift"] * 3 + ["drift"]


def test_exit_code_3_on_drift_where_it_was_asked_for(world, log, darl):
    ended = darl("monitor", "--spool", log, "--window", "1d", "--fail-on-drift")
    assert ended.code == 3 and "The latest window has drifted" in ended.out
    assert "the latest window has drifted: share OOD" in ended.err and "Run darl cycle." in ended.err
    assert darl("monitor", "--spool", log, "--window", "1d").code == 0


def test_no_exit_code_3_without_drift(world, tmp_path, darl):
    path = write_log(tmp_path / "quiet.db", world.traffic(1, 100), world.policy())
    ended = darl("monitor", "--spool", path, "--fail-on-drift", "--bundle", world.bundle.path)
    assert ended.code == 0 and "The latest tested window has not drifted." in ended.out


def test_a_window_that_is_none_is_wrong_usage(log, darl):
    ended = darl("monitor", "--spool", log, "--window", "soon")
    assert ended.code == 2 and "'soon' is neither a span nor a number of requests. Use 12h, 1d or 5000." in ended.err


def test_too_few_queries_for_any_test(world, tmp_path):
    path = write_log(tmp_path / "few.db", world.traffic(1, 12), world.policy())
    assert "No window could be tested." in run("--spool", path).stdout
    assert "No window could be tested." not in run("--spool", path, "--min-queries", 10).stdout


def test_a_page_that_cannot_be_written_leaves_nothing(log, tmp_path, darl):
    (tmp_path / "file").write_text("x")
    ended = darl("monitor", "--spool", log, "--html", tmp_path / "file" / "page.html")
    assert ended.code == 1 and "file" in ended.err and "Traceback" not in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_item_texts_come_from_the_index_that_is_named(world, tmp_path, monkeypatch):
    path = write_log(tmp_path / "log.db", world.traffic(1, 80), world.policy(0.5, text="none"))
    asked = []

    class Client:
        def search(self, *, index, body, params):
            ids = body["query"]["bool"]["filter"][0]["terms"]["darl_id"]
            asked.append((index, params["search_pipeline"]))
            rows = [{"darl_id": i, "darl_text": world.items[int(i[2:])]} for i in ids]
            return {"hits": {"hits": [{"_source": row} for row in rows]}}

    # The package exports a function of the module's name.
    module = importlib.import_module("darl_opensearch.connect")
    monkeypatch.setattr(module, "connect", lambda options: Client())
    said = run("--spool", path, "--bundle", world.bundle.path, "--index", "items", "--json")
    assert said.exit_code == 0, said.output
    (window,) = json.loads(said.stdout)["drift"]["windows"]
    assert set(asked) == {("items", "_none")} and window["sample"]["pairs"] > 100 and window["sample"]["unjoined"] == 0


def test_text_for_a_terminal_has_the_same_words(world, log):
    with SpoolStore(log) as store:
        result = drift(store, None, DriftConfig(window="1d"), until=datetime.now(UTC))
    plain, coloured = render_drift(result), render_drift(result, width=200, terminal=True)
    assert "\x1b[" in coloured and "\x1b" not in plain
    assert {"DRIFT", "drift"} <= set(re.findall(r"[a-zA-Z]+", re.sub(r"\x1b\[[0-9;]*m", "", coloured)))
