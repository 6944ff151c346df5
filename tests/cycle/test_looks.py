"""The control arm judged in shares: when the gate stops, what that spares, and what a restart finds."""

from __future__ import annotations

import json
import shutil

import pytest

from darl_opensearch.cli.cycle import describe_plan, summarize_cycle
from darl_opensearch.errors import UsageError
from darl_opensearch.text import same_text
from tests.helpers.cycles import world, write_cycle
from tests.helpers.files import read_rows, write_rows
from trainer.cycle.config import read_cycle
from trainer.cycle.folder import Cycles
from trainer.cycle.run import plan_cycle, run_cycle
from trainer.cycle.steps.looks import divide_arm, order_arm

SEED = 0


def queries(path):
    return {same_text(row["query"]) for row in read_rows(path)}


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A cycle with four looks, up to its gate; read-only."""
    folder = tmp_path_factory.mktemp("looks")
    path = write_cycle(folder, small[1], small[0].folder.parent / "data" / "darl.toml", gate={"looks": 4})
    result = run_cycle(read_cycle(path), folder, world(folder), until="evaluate")
    assert (result.outcome, result.steps["judge"]["control"]) == ("stopped", len(judged_control(folder)))
    return folder


def judged_control(folder):
    return [row for row in read_rows(folder / "cycles/0001/judge/judgments.jsonl") if row["arm"] == "control"]


def copied(trained, tmp_path):
    """A copy to go on from; its judges answer from their file, which may be cut."""
    folder = tmp_path / "cycle"
    shutil.copytree(trained, folder)
    return folder


def go_on(folder, *overrides, **more):
    return run_cycle(read_cycle(folder / "cycle.toml", overrides), folder, world(folder, **more))


def test_before_the_gate_only_the_first_share_is_judged(trained):
    cycle = trained / "cycles" / "0001"
    looks, turns = divide_arm(cycle, SEED, 4)
    arm = queries(cycle / "select/control.jsonl")
    assert set(turns) == arm and [look.seen for look in looks] == [3, 6, 9, 12][: len(looks)]
    first = {key for key, turn in turns.items() if turn == 1}
    assert {same_text(row["query"]) for row in judged_control(trained)} == first and 0 < len(first) < len(arm)
    assert queries(cycle / "train/control.jsonl") == first  # evaluate shows these
    for name in ("judgments", "new", "dev", "ood_dev", "traffic"):
        assert not arm & queries(cycle / f"train/{name}.jsonl")


def test_the_order_of_the_arm_is_random_and_its_own():
    tasks = [{"query": f"Query {number}"} for number in range(40) for _ in range(2)]
    order = order_arm(tasks, 1)
    assert sorted(order) == sorted({f"query {number}" for number in range(40)})
    assert order == order_arm(reversed(tasks), 1) != order_arm(tasks, 2)
    without = [key for key in order if key != "query 7"]
    assert order_arm([task for task in tasks if task["query"] != "Query 7"], 1) != without


def test_a_clear_gain_stops_early_and_spares_labels(trained, tmp_path):
    """Resamples enough for the level of an early look."""
    folder = copied(trained, tmp_path)
    result = go_on(folder, "gate.min_queries=2", "gate.draws=200000", "gate.tolerance=2.0")
    verdict = result.steps["gate"]
    assert result.outcome in ("released", "refused")
    last, cycle = verdict["looks"][-1], folder / "cycles" / "0001"
    assert [look["look"] for look in verdict["looks"]] == list(range(1, last["look"] + 1))
    assert [look["decision"] for look in verdict["looks"][:-1]] == ["continue"] * (last["look"] - 1)
    _, turns = divide_arm(cycle, SEED, 4)
    seen = {key for key, turn in turns.items() if turn <= last["look"]}
    assert {same_text(row["query"]) for row in judged_control(folder)} == seen
    assert queries(cycle / f"gate/control-{last['look']}.jsonl") == seen
    traced = {line["task"] for line in read_rows(cycle / "lineage.jsonl")}
    assert traced == {row["task"] for row in read_rows(cycle / "judge/judgments.jsonl")}
    print(json.dumps(verdict["looks"], indent=1), verdict["decided"], verdict["reasons"])
    assert 0
