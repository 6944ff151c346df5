"""The control arm judged in shares: when the gate stops, what that spares, and what a restart finds."""

from __future__ import annotations

import json
import math
import shutil
from statistics import NormalDist

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.cycle import describe_plan, summarize_cycle
from darl_opensearch.errors import UsageError
from darl_opensearch.text import same_text
from tests.helpers.cycles import world, write_cycle
from tests.helpers.files import read_rows, write_rows
from trainer.cycle.config import read_cycle
from trainer.cycle.run import plan_cycle, run_cycle
from trainer.cycle.steps import gate as steps
from trainer.cycle.steps.looks import divide_arm, list_former, order_arm
from trainer.evaluate.gate_words import render_decision

SEED = 0
YES = "gate.min_queries=2", "gate.draws=20000"


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


def go_on(folder, *overrides, until=""):
    return run_cycle(read_cycle(folder / "cycle.toml", overrides), folder, world(folder), until=until)


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


@pytest.fixture(scope="module")
def early(trained, tmp_path_factory):
    """The cycle, whose gate says yes at its third look; read-only."""
    folder = copied(trained, tmp_path_factory.mktemp("early"))
    return folder, go_on(folder, *YES)


def test_a_clear_gain_stops_early_and_spares_labels(early):
    folder, result = early
    verdict, cycle = result.steps["gate"], folder / "cycles" / "0001"
    assert result.outcome == "released" and [look["decision"] for look in verdict["looks"]] == [
        *["continue"] * 2,
        "yes",
    ]
    assert [(look["queries"], look["planned"]) for look in verdict["looks"]] == [(3, 12), (6, 12), (9, 12)]
    _, turns = divide_arm(cycle, SEED, 4)
    seen = {key for key, turn in turns.items() if turn <= 3}
    assert {same_text(row["query"]) for row in judged_control(folder)} == seen
    assert queries(cycle / "gate/control-3.jsonl") == seen and len(seen) == 9
    traced = [line["task"] for line in read_rows(cycle / "lineage.jsonl")]
    assert sorted(traced) == sorted(row["task"] for row in read_rows(cycle / "judge/judgments.jsonl"))
    # The test at a look is that of its own level, and the interval as well.
    for look, (one, two) in zip(verdict["looks"], ((4.333, 4.860), (2.963, 3.345), (2.359, 2.670)), strict=True):
        assert look["level"] == pytest.approx(2 - 2 * NormalDist().cdf(one), rel=0.01)
        assert look["shared_level"] == pytest.approx(2 - 2 * NormalDist().cdf(two), rel=0.01)
    order = verdict["conditions"]["control"]["changes"][0]
    assert (
        order["gain"]["holds"] and order["change"]["p"] <= order["gain"]["level"] == verdict["looks"][2]["shared_level"]
    )
    assert [look["measures"]["ndcg@10"]["p"] > look["shared_level"] for look in verdict["looks"]] == [True, True, False]
    said = "decided at look 3 of 4: 3 of 12 control queries were not judged"
    assert verdict["decided"] == said and f"gate       yes, {said}" in summarize_cycle(result)
    text = render_decision(verdict)
    assert "look 1 of 4, 3 queries: nDCG@10 +" in text and said in text and "chance of a yes" in text


def test_what_was_spared_is_neither_judged_nor_lost(small, early, tmp_path):
    """In the next cycle it is traffic like any other; the rest of the arm is kept or trained on as ever."""
    folder = copied(early[0], tmp_path)
    before, now = (folder / "cycles" / name for name in ("0001", "0002"))
    write_cycle(folder / "next", Bundle.open(before / "bundle"), small[0].folder.parent / "data" / "darl.toml")
    for name in ("spool.sqlite", "answers.jsonl"):
        shutil.copy(folder / "next" / name, folder / name)
    result = go_on(folder, *YES, until="train")
    arm, seen = queries(before / "select/control.jsonl"), queries(before / "gate/control-3.jsonl")
    kept, drawn = queries(now / "select/kept.jsonl"), queries(now / "select/control.jsonl")
    assert queries(now / "select/former.jsonl") == seen
    assert kept < seen and len(kept) == 5
    assert arm - seen <= drawn  # the draw of a query depends on its text alone, so these come first again
    old = queries(now / "train/judgments.jsonl")
    assert (seen - kept) <= old and not (arm - seen) & old and not (kept | drawn) & old
    asked = queries(now / "judge/tasks.jsonl")
    _, turns = divide_arm(now, SEED, 4)
    assert set(turns) == kept | drawn and not asked & kept
    assert asked & drawn == {key for key in drawn if turns[key] == 1}
    assert result.outcome == "stopped"


def test_a_gate_may_go_to_the_end(trained, tmp_path):
    folder = copied(trained, tmp_path)
    result = go_on(folder, *YES, "gate.min_queries=12")
    verdict = result.steps["gate"]
    assert result.outcome == "released" and len(verdict["looks"]) == 4
    assert verdict["decided"] == "decided at look 4 of 4: no label was spared"
    assert {same_text(row["query"]) for row in judged_control(folder)} == queries(
        folder / "cycles/0001/select/control.jsonl"
    )


def test_a_version_that_changes_nothing_is_futile(small, trained, tmp_path):
    folder = copied(trained, tmp_path)
    cycle = folder / "cycles" / "0001"
    shutil.rmtree(cycle / "bundle")
    shutil.copytree(small[1].path, cycle / "bundle")
    before = (cycle / "judge/judgments.jsonl").read_bytes()
    result = go_on(folder, *YES)
    verdict = result.steps["gate"]
    (look,) = verdict["looks"]
    assert (result.outcome, look["decision"], look["chance"]) == ("refused", "futile", 0.0)
    said = "decided at look 1 of 4: 9 of 12 control queries were not judged, since the chance of a yes was 0 %"
    assert verdict["reasons"][-1] == said and said in result.reason
    assert (cycle / "judge/judgments.jsonl").read_bytes() == before and not list(cycle.glob("judge/look-*"))


def test_what_no_control_label_can_change_ends_at_the_first_look(trained, tmp_path):
    """An ID test of too few queries."""
    folder = copied(trained, tmp_path)
    verdict = go_on(folder, *YES, "gate.min_queries=4000").steps["gate"]
    assert [(look["decision"], look["chance"]) for look in verdict["looks"]] == [("no", None)]
    assert verdict["reasons"][0].startswith("in-distribution queries: ")
    assert verdict["decided"] == "decided at look 1 of 4: 9 of 12 control queries were not judged"


@pytest.mark.parametrize("point", ["decide_look", "_write_control"])
def test_killed_between_looks_it_goes_on_there(early, trained, tmp_path, monkeypatch, point):
    """Before the second look's judgments are looked at, or just after its decision is recorded."""
    folder, real, calls = copied(trained, tmp_path), getattr(steps, point), []

    def cut(*args, **more):
        calls.append(point)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(steps, point, cut)
    with pytest.raises(KeyboardInterrupt):
        go_on(folder, *YES)
    path = folder / "cycles/0001/gate/looks.json"
    assert [look["look"] for look in json.loads(path.read_text())["looks"]] == [1]
    asked = len(read_rows(folder / "cycles/0001/judge/look-2/tasks.jsonl"))
    answers = read_rows(folder / "cycles/0001/judge/look-2" / "work" / "answers.jsonl")
    assert len(answers) == asked
    with pytest.raises(UsageError, match=r"\[gate\] tolerance has changed from 1.0 to 0.5 since the gate's first look"):
        go_on(folder, *YES, "gate.tolerance=0.5")
    with pytest.raises(UsageError, match=r"gate.looks has changed from 4 to 2 since cycle 0001 ran step judge"):
        go_on(folder, *YES, "gate.looks=2")
    result = go_on(folder, *YES)
    assert result.steps["gate"]["looks"] == early[1].steps["gate"]["looks"] and len(calls) == 4
    assert read_rows(folder / "cycles/0001/judge/look-2" / "work" / "answers.jsonl") == answers
    assert judged_control(folder) == judged_control(early[0])


def fill(work, tasks, answers):
    """Fill in a sheet as the answers say, and give its tasks."""
    (sheet,) = work.glob("tasks*.jsonl")
    grades = {(row["query"], row["item_id"]): row["grade"] for row in answers}
    by_task = {f"t-{row['task']}": grades[row["query"], row["item_id"]] for row in read_rows(tasks)}
    rows = read_rows(sheet)
    write_rows(sheet, [row | {"grade": by_task[row["task"]]} for row in rows])
    return {row["task"] for row in rows}


def test_people_are_waited_for_at_each_look(small, tmp_path):
    people = {"judges": ["file"], "params": {"file": {"format": "jsonl"}}}
    write_cycle(
        tmp_path, small[1], small[0].folder.parent / "data" / "darl.toml", judge=people, gate={"looks": 2}
    )  # fmt: skip
    answers, judge = read_rows(tmp_path / "answers.jsonl"), tmp_path / "cycles/0001/judge"
    assert go_on(tmp_path).outcome == "waiting"
    first = fill(judge / "work", judge / "tasks.jsonl", answers)
    waiting = go_on(tmp_path, "gate.min_queries=12")
    assert waiting.outcome == "waiting" and list(waiting.steps)[-1] == "evaluate" and "look-2" in waiting.reason
    assert go_on(tmp_path, "gate.min_queries=12").outcome == "waiting"
    second = fill(judge / "look-2/work", judge / "look-2/tasks.jsonl", answers)
    assert not first & second
    done = go_on(tmp_path, "gate.min_queries=12")
    assert done.outcome == "released" and len(done.steps["gate"]["looks"]) == 2
    rows = read_rows(judge / "judgments.jsonl")
    assert {f"t-{row['task']}" for row in rows} == first | second and len(rows) == len(first | second)


def test_one_look_is_as_before(small, trained, tmp_path):
    """The whole arm is judged before training, and the gate's report names no look."""
    path = write_cycle(tmp_path, small[1], small[0].folder.parent / "data" / "darl.toml")
    result = run_cycle(read_cycle(path), tmp_path, world(tmp_path), until="judge")
    cycle = tmp_path / "cycles" / "0001"
    assert queries(cycle / "judge/tasks.jsonl") >= queries(cycle / "select/control.jsonl")
    assert result.steps["judge"]["settings"]["gate.looks"] == 1
    assert list_former([cycle], tmp_path) == [cycle / "select/control.jsonl", cycle / "select/kept.jsonl"]
    assert list_former([], tmp_path) == []


def test_the_plan_says_how_many_are_judged_on_average(early):
    folder = early[0]
    one, four = (
        plan_cycle(read_cycle(folder / "cycle.toml", [f"gate.looks={looks}"]), folder, world(folder))
        for looks in (1, 4)
    )
    assert one.control.judged == (1.0, 1.0) and four.control.looks == 4
    for name, count in one.control.gain.items():
        assert count < four.control.gain[name] <= math.ceil(1.07 * count) + 1
    assert [round(share, 2) for share in four.control.judged] == [0.79, 0.50]
    assert describe_plan(four).endswith(
        " With 4 looks about 79 % and 50 % of them are judged, with such a gain and without one."
    )
    assert "looks" not in describe_plan(one)


@pytest.mark.parametrize("looks", ["0", "5", "'all'", "2.5"])
def test_looks_that_no_gate_has(trained, looks):
    with pytest.raises(UsageError, match=r"\[gate\] looks is "):
        read_cycle(trained / "cycle.toml", [f"gate.looks={looks}"])


def test_looks_are_of_a_cycle_alone(darl, tmp_path):
    """``darl gate`` has all of its judgments."""
    done = darl("gate", tmp_path, tmp_path, "--looks", "2")
    assert done.code == 2 and "No such option '--looks'" in done.err
