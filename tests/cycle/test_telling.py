"""Telling how a cycle ended: whatever is killed, at least once; never again once it was taken; never in the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from darl_opensearch.cli.cycle_world import Surroundings
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import GateRefused
from tests.helpers.bundles import tiny_bundle
from tests.helpers.cycles import world
from tests.helpers.http import Quiet, serving
from trainer.cycle.config import read_cycle
from trainer.cycle.folder import Cycle, Cycles
from trainer.cycle.ports import StartDecision
from trainer.cycle.run import abandon, run_cycle
from trainer.cycle.steps import STEPS
from trainer.cycle.telling import tell_refusal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("telling") / "tiny")


def ready(folder, bundle, *, number=1, passed=True, webhook=""):
    """A cycle whose steps are done, all of them or up to a gate that says no, and which has not ended."""
    path = folder / "cycle.toml"
    path.write_text(
        f"[model]\nbundle = {json.dumps(str(bundle.path))}\nconfig = 'darl.toml'\n[log]\nspool = 'spool.sqlite'\n"
        f"[judge]\n[gate]\nid_test = 'id.jsonl'\n[release]\nwebhook = '{webhook}'\n",
        encoding="utf-8",
    )
    for name in ("darl.toml", "id.jsonl"):
        (folder / name).touch()
    cycle = Cycle(folder / "cycles" / f"{number:04d}", number)
    cycle.path.mkdir(parents=True)
    card = bundle.card
    begun = {"number": number, "from": {"name": card.name, "version": card.version, "sha256": bundle.identity}}
    (cycle.path / "cycle.json").write_text(json.dumps(begun), encoding="utf-8")
    left = {"settings": {}, "selected": 1, "passed": passed, "reasons": ["too few queries"], "version": "2"}
    for step in STEPS if passed else STEPS[: [step.name for step in STEPS].index("gate") + 1]:
        cycle.finish(step.name, left)
    return path, cycle


def calm(folder, answers):
    """A world that begins nothing and whose webhook answers in turn; gives it, and what it was told."""
    told = []

    def tell(event, figures, delivery):
        told.append((event, figures, delivery))
        return answers.pop(0)

    return world(folder, start=lambda bundle: StartDecision(False, ("there is no drift",)), tell=tell), told


def test_killed_between_the_outcome_and_the_webhook(bundle, tmp_path):
    """Told by the next start; told again where the kill came before the note, under one delivery; then never again."""
    seen = []

    class Receiver(Quiet):
        def do_POST(self):
            seen.append((self.headers["X-DaRL-Delivery"], self.headers["X-DaRL-Event"], json.loads(self.body())))
            self.answer(204, b"")

    with serving(Receiver) as url:
        path, cycle = ready(tmp_path, bundle, webhook=url)
        ran = subprocess.run(
            [sys.executable, "-m", "tests.helpers.killed_telling", str(path)],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert ran.stdout.split("\n")[:-1] == ["outcome -9", "told -9", "end 0", "once more 0"], ran.stderr
    assert [event for _, event, _ in seen] == ["released", "released"]
    assert seen[0] == seen[1] and seen[0][0] == cycle.outcome["delivery"]
    body = seen[0][2]
    assert (body["event"], body["cycle"], body["to"], body["time"]) == ("released", "0001", "2", cycle.outcome["time"])
    assert cycle.notified and [c.name for c in Cycles(tmp_path / "cycles").all()] == ["0001"]


@pytest.mark.parametrize("passed", [True, False])
def test_a_webhook_that_cannot_be_reached_stops_nothing_and_is_told_later(bundle, tmp_path, passed):
    path, cycle = ready(tmp_path, bundle, passed=passed)
    around, told = calm(tmp_path, [False, False, True])
    config = read_cycle(path)
    outcome = "released" if passed else "refused"
    assert run_cycle(config, tmp_path, around).outcome == outcome
    assert (cycle.outcome["outcome"], cycle.notified, len(told)) == (outcome, False, 1)
    assert run_cycle(config, tmp_path, around).outcome == "idle" and not cycle.notified and len(told) == 2
    for _ in range(3):
        assert run_cycle(config, tmp_path, around).outcome == "idle" and cycle.notified and len(told) == 3
    assert told[0] == told[1] == told[2]
    event, figures, _ = told[0]
    assert event == outcome and figures["model"] == bundle.card.name and figures["gate"]["passed"] is passed


def test_a_real_webhook_that_is_gone_is_said_and_stops_nothing(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    path, cycle = ready(tmp_path, bundle, webhook="http://127.0.0.1:9/?token=abc")
    said = []
    around = Surroundings(read_cycle(path), tmp_path, ClusterOptions(), say=said.append).world()
    assert run_cycle(read_cycle(path), tmp_path, around).outcome == "released"
    assert not cycle.notified and len(said) == 1 and "abc" not in said[0]
    assert said[0].startswith("the webhook was not notified: ") and said[0].endswith("the next darl cycle tries again")


def test_without_a_webhook_nobody_is_told_later_either(bundle, tmp_path):
    path, cycle = ready(tmp_path, bundle)
    run_cycle(read_cycle(path), tmp_path, Surroundings(read_cycle(path), tmp_path, ClusterOptions()).world())
    around, told = calm(tmp_path, [])
    assert run_cycle(read_cycle(path), tmp_path, around).outcome == "idle" and cycle.notified and not told


def test_of_several_only_the_newest_is_told_and_what_changed_nothing_never(bundle, tmp_path):
    for number, outcome in ((1, "released"), (2, "refused"), (3, "nothing"), (4, "abandoned")):
        path, cycle = ready(tmp_path, bundle, number=number, passed=outcome == "released")
        cycle.end(outcome, said="x")
    around, told = calm(tmp_path, [True])
    for _ in range(2):
        run_cycle(read_cycle(path), tmp_path, around)
    assert [(event, figures["cycle"]) for event, figures, _ in told] == [("refused", "0002")]


def test_neither_an_end_by_hand_nor_an_outcome_without_a_delivery_is_told(bundle, tmp_path):
    path, cycle = ready(tmp_path, bundle)
    assert abandon(read_cycle(path), tmp_path) == "0001"
    _, older = ready(tmp_path, bundle, number=2)
    older.end("released", said="x")
    ended = {key: value for key, value in older.outcome.items() if key != "delivery"}
    (older.path / "outcome.json").write_text(json.dumps(ended), encoding="utf-8")
    around, told = calm(tmp_path, [])
    assert run_cycle(read_cycle(path), tmp_path, around).outcome == "idle" and not told


def test_a_step_that_was_refused_is_told_each_time(bundle, tmp_path):
    _, cycle = ready(tmp_path, bundle)
    around, told = calm(tmp_path, [True, True])
    for _ in range(2):
        tell_refusal(cycle, around, "judge", GateRefused("no judge may be used"))
    assert [(event, figures["step"], figures["reason"]) for event, figures, _ in told] == [
        ("refused", "judge", "no judge may be used.")] * 2  # fmt: skip
    assert told[0][2] != told[1][2] and not cycle.notified
