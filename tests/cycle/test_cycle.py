"""The cycle from end to end, on the random BERT: what it makes, when it stops, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.cycle import describe_plan, summarize_cycle
from darl_opensearch.cli.cycle_world import Surroundings
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, DarlError, GateRefused, InputError, UsageError
from darl_opensearch.scoring import Scorer
from tests.helpers.cycles import Deployed, world, write_cycle
from tests.helpers.files import read_rows, write_rows
from trainer.config import read_config
from trainer.cycle.config import read_cycle
from trainer.cycle.folder import Cycles
from trainer.cycle.ports import StartDecision
from trainer.cycle.run import CycleResult, abandon, plan_cycle, run_cycle
from trainer.cycle.steps import STEPS
from trainer.report import write_report
from trainer.report.cycle import shorten_query
from trainer.training_data.reading import read_data

NAMES = [step.name for step in STEPS]


def training(small):
    return small[0].folder.parent / "data" / "darl.toml"


@pytest.fixture(scope="module")
def released(small, tmp_path_factory):
    """A cycle that has released; read-only."""

    folder, told = tmp_path_factory.mktemp("released"), []
    path = write_cycle(folder, small[1], training(small))
    result = run_cycle(read_cycle(path), folder, world(folder, told=told))
    return folder, result, told


def test_the_whole_way(small, released):
    folder, result, told = released
    assert (result.cycle, result.outcome, list(result.steps)) == ("0001", "released", NAMES)
    cycle = folder / "cycles" / "0001"
    made = Bundle.open(cycle / "bundle")
    assert made.card.version == "2" and made.card.training["cycle"]["from"] == small[1].identity
    deployed = read_rows(folder / "deployed.jsonl")
    assert [(row["did"], row["sha256"]) for row in deployed] == [(d, made.identity) for d in ("register", "release")]
    assert deployed[1]["cycle"] == "0001" and deployed[1]["passed"]
    assert Cycles(folder / "cycles").serving(small[1].path).identity == made.identity
    assert json.loads((cycle / "outcome.json").read_text())["outcome"] == "released"
    assert (cycle / "evaluation" / "evaluation.html").is_file()
    ((event, figures),) = told
    assert event == "released" and (figures["from"], figures["to"], figures["cycle"]) == ("1", "2", "0001")
    assert figures["gate"]["passed"] and "settings" not in figures["gate"]


def test_its_report_shows_what_was_recorded(released, tmp_path):
    cycle = released[0] / "cycles" / "0001"
    written = write_report(cycle, tmp_path / "report.html")
    assert written.of == "cycle"
    # With so few dev queries the training holds none of the new kind out.
    assert [why for why in written.missing if "OOD dev queries" not in why] == []
    text = written.path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    charts = json.loads(data)["charts"]
    gate = json.loads((cycle / "steps" / "gate.json").read_text())
    changes = [part["changes"][0]["change"]["mean"] for part in gate["conditions"].values()]
    assert charts["gate-ndcg-10"]["series"][0]["values"] == changes
    assert charts["versions"]["names"] == ["small-1", "small-2"] and charts["reliability-control"]["x"]
    selected = {row["query"] for row in read_rows(cycle / "select" / "selected.jsonl")}
    place = [series["name"] for series in charts["map"]["series"]].index("selected")
    marked = [n for n, y in enumerate(charts["map"]["series"][place]["values"]) if y is not None]
    assert {charts["map"]["labels"][n] for n in marked} == {shorten_query(query) for query in selected}
    assert "<strong>Released.</strong>" in text and "The gate passed it." in text


def test_the_command_writes_the_report_of_a_cycle_that_stops(released, tmp_path, darl):
    folder = tmp_path / "stopped"
    shutil.copytree(released[0], folder)
    cycle = folder / "cycles" / "0001"
    for name in ("outcome.json", "steps/register.json", "steps/release.json"):
        (cycle / name).unlink()
    (folder / "cycles" / "current.json").unlink()
    said = darl("cycle", folder / "cycle.toml", "--now", "--until", "gate")
    assert said.code == 0, said.err
    assert f"the report is in {cycle / 'report.html'}" in said.err.splitlines()
    assert "<strong>Not finished.</strong> The next step is register." in (cycle / "report.html").read_text()


def test_what_was_drawn_for_the_gate_is_not_trained_on(released):
    cycle = released[0] / "cycles" / "0001"
    control = {row["query"] for row in read_rows(cycle / "train" / "control.jsonl")}
    learnt = {row["query"] for name in ("judgments", "new", "dev", "ood_dev", "traffic")
              for row in read_rows(cycle / "train" / f"{name}.jsonl")}  # fmt: skip
    selected = {row["query"] for row in read_rows(cycle / "select" / "selected.jsonl")}
    assert len(control) >= 10 and not control & learnt
    assert selected <= learnt and not selected & control


def test_every_judged_pair_can_be_traced(released):
    folder, result, _ = released
    cycle = folder / "cycles" / "0001"
    lines = read_rows(cycle / "lineage.jsonl")
    judged = {(row["task"], row["grade"]) for row in read_rows(cycle / "judge" / "judgments.jsonl")}
    assert {(line["task"], line["grade"]) for line in lines} == judged
    assert {line["judge"] for line in lines} == {"judgments"} and {line["cycle"] for line in lines} == {"0001"}
    logged = {line["task"] for line in lines if line["records"]}
    assert {line["task"] for line in lines if line["role"] != "control"} <= logged
    assert sum(result.steps["train"]["pairs"].values()) == len(lines)


def test_the_split_of_the_first_training_stays(small, released):
    train = released[0] / "cycles" / "0001" / "train"
    first = training(small).parent
    for name, before in (("judgments", "judgments"), ("dev", "dev_judgments"), ("traffic", "traffic")):
        queries = ({row["query"] for row in read_rows(path)}
                   for path in (train / f"{name}.jsonl", first / f"{before}.jsonl"))  # fmt: skip
        now, then = queries
        # A traffic query that retrieves nothing calibrates nothing.
        assert now == then or (name == "traffic" and now < then and len(then - now) < 3), name


def test_the_next_cycle_starts_from_what_serves_and_learns_from_the_last_one(small, released, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(released[0], folder)
    path = write_cycle(folder / "next", Bundle.open(folder / "cycles" / "0001" / "bundle"), training(small))
    for name in ("spool.sqlite", "answers.jsonl"):
        shutil.copy(folder / "next" / name, folder / name)  # the log of the new version, which serves now
    result = run_cycle(read_cycle(folder / "cycle.toml"), folder, world(folder), until="train")
    assert path.is_file() and (result.cycle, result.outcome) == ("0002", "stopped")
    before, now = (folder / "cycles" / name for name in ("0001", "0002"))
    judged = {row["query"] for row in read_rows(before / "select" / "selected.jsonl")}
    assert not judged & {row["query"] for row in read_rows(now / "select" / "selected.jsonl")}
    arm = {row["query"] for row in read_rows(before / "train" / "control.jsonl")}
    kept = {row["query"] for row in read_rows(now / "select" / "kept.jsonl")}
    assert kept and kept < arm
    old = {row["query"] for row in read_rows(now / "train" / "judgments.jsonl")}
    assert judged <= old and (arm - kept) <= old and not kept & old  # the other half of the arm trains now
    assert kept <= {row["query"] for row in read_rows(now / "train" / "control.jsonl")}
    asked = {row["query"] for row in read_rows(now / "judge" / "tasks.jsonl")}
    assert not asked & kept and result.steps["judge"]["known"] > 0
    assert result.steps["train"]["version"] == "3"


def test_a_gate_that_says_no_leaves_everything_as_it_was(small, released, tmp_path):
    folder, told = tmp_path / "no", []
    shutil.copytree(released[0] / "cycles", folder / "cycles")
    for name in ("outcome.json", "steps/gate.json", "steps/register.json", "steps/release.json"):
        (folder / "cycles" / "0001" / name).unlink()
    (folder / "cycles" / "current.json").unlink()
    path = write_cycle(folder, small[1], training(small), gate={"min_queries": 4000})
    result = run_cycle(read_cycle(path), folder, world(folder, told=told))
    assert result.outcome == "refused" and "the gate refused it: " in result.reason
    assert not (folder / "deployed.jsonl").exists()
    assert Cycles(folder / "cycles").serving(small[1].path).identity == small[1].identity
    assert told[0][0] == "refused" and told[0][1]["gate"]["reasons"]
    # The next one is a new cycle, and its version is not the refused one's.
    assert Cycles(folder / "cycles").open_or_next().name == "0002"


@pytest.mark.parametrize("tampered", [False, True])
def test_the_gate_scores_again_only_what_evaluate_has_not_kept(released, tmp_path, monkeypatch, tampered):
    folder, seen, real = tmp_path / "gate", [], Scorer.score_many
    shutil.copytree(released[0], folder)
    cycle = folder / "cycles" / "0001"
    for name in ("outcome.json", "steps/gate.json", "steps/register.json", "steps/release.json"):
        (cycle / name).unlink()
    (folder / "cycles" / "current.json").unlink()
    if tampered:
        kept = bytearray((cycle / "scores.npz").read_bytes())
        kept[len(kept) // 2] ^= 1
        (cycle / "scores.npz").write_bytes(kept)
    monkeypatch.setattr(Scorer, "score_many", lambda self, some: seen.append(self) or real(self, some))
    config = read_cycle(folder / "cycle.toml")
    said = run_cycle(config, folder, world(folder), until="gate").steps["gate"]
    assert bool(seen) is tampered
    before = json.loads((released[0] / "cycles" / "0001" / "steps" / "gate.json").read_text())
    figures = [{part: found["changes"] for part, found in gate["conditions"].items()} for gate in (before, said)]
    assert figures[0] == figures[1] and before["passed"] is said["passed"] is True


def test_further_training_data_is_kept_apart_from_the_gates_sets_too(released, tmp_path):
    folder = tmp_path / "further"
    shutil.copytree(released[0], folder)
    cycle = folder / "cycles" / "0001"
    for name in ("outcome.json", "steps/gate.json", "steps/register.json", "steps/release.json"):
        (cycle / name).unlink()
    (folder / "cycles" / "current.json").unlink()
    first = (folder / "id_test.jsonl").read_text().splitlines(keepends=True)[0]
    (folder / "elsewhere.jsonl").write_text(first)
    config = read_cycle(folder / "cycle.toml", ['gate.train=["elsewhere.jsonl"]'])
    result = run_cycle(config, folder, world(folder))
    assert result.outcome == "refused" and "elsewhere.jsonl" in result.reason
    with pytest.raises(UsageError, match=r"\[gate\] train names a file that does not exist"):
        run_cycle(read_cycle(folder / "cycle.toml", ['gate.train=["no.jsonl"]']), folder, world(folder))


def test_judges_that_are_refused_are_told_of_and_nothing_is_trained(small, tmp_path):
    """The lowest grade for everything, by a judge that is scored on gold that says otherwise."""
    path = write_cycle(tmp_path, small[1], training(small))
    gold = read_rows(tmp_path / "answers.jsonl")[:60]
    write_rows(tmp_path / "gold.jsonl", [row | {"text": "a product"} for row in gold])
    answers = read_rows(tmp_path / "answers.jsonl")
    write_rows(tmp_path / "answers.jsonl", [row | {"grade": number % 3} for number, row in enumerate(answers)])
    told = []
    with pytest.raises(GateRefused):
        run_cycle(read_cycle(path, ["judge.gold=gold.jsonl"]), tmp_path, world(tmp_path, told=told))
    assert [(event, figures["step"]) for event, figures in told] == [("refused", "judge")]
    assert Cycles(tmp_path / "cycles").open_or_next().read_result("judge") is None


def test_no_reason_no_cycle(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small))
    calm = world(tmp_path, start=lambda bundle: StartDecision(False, ("there is no drift",)))
    result = run_cycle(read_cycle(path), tmp_path, calm)
    assert (result.cycle, result.outcome, result.reason) == ("", "idle", "there is no drift")
    assert not Cycles(tmp_path / "cycles").all()
    plan = plan_cycle(read_cycle(path), tmp_path, calm)
    assert (plan.begins, plan.todo) == (False, ())


def test_nothing_to_learn_ends_the_cycle(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small), select={"budget": 0})
    result = run_cycle(read_cycle(path), tmp_path, world(tmp_path))
    assert result.outcome == "nothing" and list(result.steps) == ["select"]
    assert result.reason.startswith("nothing was selected: the budget is too small for the items of any of ")
    assert Cycles(tmp_path / "cycles").open_or_next().name == "0002"


def test_people_are_waited_for_and_nothing_is_asked_twice(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small), judge={"judges": ["file"], "params": {}})
    config = read_cycle(path)
    first = run_cycle(config, tmp_path, world(tmp_path))
    assert first.outcome == "waiting" and list(first.steps) == ["select"]
    work = tmp_path / "cycles" / "0001" / "judge" / "work"
    sheet = next(work.glob("tasks*.csv"))
    before = sheet.read_bytes()
    rows = len(read_rows(work.parent / "tasks.jsonl"))
    assert first.reason == f"{sheet} has {rows} grades missing: fill them in, then run the same command again"
    assert run_cycle(config, tmp_path, world(tmp_path)).outcome == "waiting" and sheet.read_bytes() == before
    assert abandon(config, tmp_path) == "0001" and Cycles(tmp_path / "cycles").open_or_next().name == "0002"


def test_a_cluster_that_is_away_is_asked_again(small, released, tmp_path):
    folder = tmp_path / "away"
    shutil.copytree(released[0], folder)
    for name in ("outcome.json", "steps/register.json", "steps/release.json"):
        (folder / "cycles" / "0001" / name).unlink()
    (folder / "cycles" / "current.json").unlink()
    (folder / "deployed.jsonl").unlink()
    config = read_cycle(folder / "cycle.toml")
    with pytest.raises(ClusterError, match="is not there"):
        run_cycle(config, folder, world(folder, deployment=Deployed(folder / "deployed.jsonl", broken=True)))
    assert run_cycle(config, folder, world(folder)).outcome == "released"
    assert [row["did"] for row in read_rows(folder / "deployed.jsonl")] == ["register", "release"]


def test_settings_of_a_finished_step_may_not_change_under_way(small, released, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(released[0], folder)
    (folder / "cycles" / "0001" / "outcome.json").unlink()
    (folder / "cycles" / "0001" / "steps" / "release.json").unlink()
    (folder / "cycles" / "current.json").unlink()
    config = read_cycle(folder / "cycle.toml", ["select.budget=81"])
    with pytest.raises(UsageError, match=r"\[select\] budget has changed from 80 to 81 since cycle 0001 ran step"):
        run_cycle(config, folder, world(folder))


def test_another_version_that_serves_by_now_ends_it(small, released, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(released[0], folder)
    for name in ("outcome.json", "steps/gate.json", "steps/register.json", "steps/release.json", "steps/export.json"):
        (folder / "cycles" / "0001" / name).unlink()
    with pytest.raises(DarlError, match="cycle 0001 started from version 1, but another version serves now") as caught:
        run_cycle(read_cycle(folder / "cycle.toml"), folder, world(folder))
    assert "--abandon" in str(caught.value)


def test_two_cycles_cannot_run_at_once(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small))
    with Cycles(tmp_path / "cycles").locked(), pytest.raises(DarlError, match="another cycle is running .process"):
        run_cycle(read_cycle(path), tmp_path, world(tmp_path))
    with Cycles(tmp_path / "cycles").locked():
        pass  # it was let go of


def test_a_dry_run_writes_nothing(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small))
    before = sorted(tmp_path.rglob("*"))
    plan = plan_cycle(read_cycle(path), tmp_path, world(tmp_path))
    assert (plan.cycle, plan.begins, plan.todo, plan.reasons) == ("0001", True, tuple(NAMES), ("asked for",))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_plan_says_how_many_control_queries_the_gate_needs(small, released, tmp_path):
    """By the spread of earlier control arms, else by a twin of the serving bundle, else not at all."""
    folder, result, _ = released
    needs = plan_cycle(read_cycle(folder / "cycle.toml"), folder, world(folder)).control
    changes = result.steps["gate"]["conditions"]["control"]["changes"]
    assert needs.spread == pytest.approx({change["measure"]: change["sd"] for change in changes}, abs=1e-9)
    assert (needs.available, needs.source) == (12, "the control arms of earlier cycles")
    sd = needs.spread["rps"]
    assert needs.gain["rps"] == math.ceil(((2.241403 + 0.841621) * sd / 0.01) ** 2) > 5
    assert needs.no_loss == 5  # a tolerance of 1 is no restriction, the minimum remains
    text = describe_plan(plan_cycle(read_cycle(folder / "cycle.toml", ["gate.tolerance=0.01"]), folder, world(folder)))
    assert f" or {needs.gain['rps']:,} for a gain of .01 in rps, and " in text and "up to 12 queries" in text

    path = write_cycle(tmp_path, small[1], training(small))
    unknown = plan_cycle(read_cycle(path), tmp_path, world(tmp_path))
    nothing = {"available": 12, "spread": {}, "source": "", "gain": {}, "no_loss": None}
    assert unknown.control.to_json() == nothing | {"looks": 1, "judged": [1.0, 1.0]}
    assert "not known before the first control arm" in describe_plan(unknown)
    made = folder / "cycles" / "0001" / "bundle"
    config = read_cycle(path, [f"start.twin='{made}'"])
    twin = plan_cycle(config, tmp_path, world(tmp_path)).control
    gates = result.steps["gate"]["conditions"]["id"]["changes"]  # the same two bundles on the same ID test
    assert twin.spread == pytest.approx({change["measure"]: change["sd"] for change in gates}, abs=1e-5)
    assert twin.source == f"{made} against the serving bundle on the ID test"
    with pytest.raises(DarlError, match=r"nosuch"):
        plan_cycle(read_cycle(path, ["start.twin='nosuch'"]), tmp_path, world(tmp_path))


@pytest.mark.parametrize(
    "key", ["model.config", "model.catalogue", "model.held_out", "gate.id_test", "judge.guideline", "judge.gold"]
)
def test_a_file_that_a_later_step_would_miss_is_missed_at_once(small, tmp_path, key):
    path = write_cycle(tmp_path, small[1], training(small))
    name = "['nosuch']" if key in ("model.catalogue", "model.held_out") else "'nosuch'"
    config = read_cycle(path, [f"{key}={name}"])
    table, _, field = key.partition(".")
    for look in (plan_cycle, run_cycle):
        with pytest.raises(UsageError, match=rf"nosuch: \[{table}\] {field} names a file that does not exist. Correct"):
            look(config, tmp_path, world(tmp_path))
    assert not (tmp_path / "cycles" / "0001").exists()


def test_a_test_set_that_was_trained_on_is_refused_before_anybody_judges(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small))
    rows = read_rows(tmp_path / "id_test.jsonl")
    trained = read_data(read_config(training(small)), training(small).parent, small[1].tokenizer)
    query = trained.train[0].query
    shared = {**rows[0], "query": f"{query.upper()} ", "query_id": "shared"}
    write_rows(tmp_path / "id_test.jsonl", [*rows, shared])
    config = read_cycle(path)
    for look in (plan_cycle, run_cycle):
        with pytest.raises(
            InputError, match=r"is the same query text as .* the gate would refuse any result.* \[gate\] allow"
        ):
            look(config, tmp_path, world(tmp_path))
    assert not (tmp_path / "cycles" / "0001").exists()
    assert plan_cycle(read_cycle(path, ["gate.allow=['query']"]), tmp_path, world(tmp_path)).begins
    # A query that stops the training or calibrates is none that the gate asks about.
    write_rows(tmp_path / "id_test.jsonl", [*rows, {**shared, "query": trained.dev[0].query}])
    assert plan_cycle(config, tmp_path, world(tmp_path)).begins


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("start.when='often'", r"\[start\] when is 'often'. Choose drift or always"),
        ("log.since='a week'", r"\[log\] since is 'a week'. Write a span such as 12h, 30d or 4w"),
        ("train.stages=['refitt']", r"\[train\] stages lists 'refitt'. Did you mean 'refit'"),
        ("train.ood_dev_share=0.9", r"\[train\] ood_dev_share is 0.9"),
        ("release.mode='remote'", r"\[release\] mode is 'remote'. Choose local or connector"),
        ("release.keep=-1", r"\[release\] keep is -1"),
        ("gate.id_test=3", r"\[gate\] id_test is 3, not text"),
        ("select.budgt=3", r"unknown key \[select\] budgt. Did you mean 'budget'"),
    ],
)
def test_what_is_wrong_in_cycle_toml(small, tmp_path, override, message):
    path = write_cycle(tmp_path, small[1], training(small))
    with pytest.raises(UsageError, match=message):
        plan_cycle(read_cycle(path, [override]), tmp_path, world(tmp_path))


def test_a_span_that_begins_before_the_calendar_is_all_of_the_log(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small), drift={"min_queries": 4000})
    config = read_cycle(path, ["log.since=999999w", "start.when=drift"])
    started = Surroundings(config, tmp_path, ClusterOptions()).world().start(small[1])
    assert not started.begin and "a test needs 4,000" in started.reasons[0]
    result = run_cycle(config, tmp_path, world(tmp_path), until="select")
    assert result.steps["select"]["selected"] > 0


def test_a_missing_key_is_looked_up_on_its_page(tmp_path):
    (path := tmp_path / "cycle.toml").write_text('[model]\nbundle = "b"\nconfig = "darl.toml"\n')
    with pytest.raises(UsageError, match=r"\[gate\] is missing. Add it: .* docs/cycle.md those of cycle.toml"):
        read_cycle(path)


@pytest.mark.parametrize(("known", "more"), [(0, ""), (7, "; 7 had been judged before")])
def test_what_was_judged_before_is_counted(known, more):
    left = {"judge": {"asked": 10, "selected": 3, "control": 5, "known": known}}
    said = summarize_cycle(CycleResult("0002", "stopped", "next is train", left))
    assert said == f"judge      3 selected and 5 control pairs judged, 2 not{more}\nCycle 0002: next is train."


def test_a_thin_calibration_can_be_seen(released):
    result = released[1]
    ood = result.steps["train"]["ood"]
    alarms = ood["false_alarms_seen_items"]["mean"]
    on = f"{ood['calibration_pairs']:,} pairs of {ood['calibration_queries']:,} held-out queries"
    of = f"false alarms on trained items {alarms:.3f} (alpha {ood['alpha']:g})"
    assert f"OOD score calibrated on {on}; {of}\n" in summarize_cycle(result)
    thin = dict(result.steps["train"]) | {"ood": {**ood, "false_alarms_seen_items": None}}
    assert "held-out queries\n" in summarize_cycle(CycleResult("0002", "stopped", "next is export", {"train": thin}))


def test_there_is_no_such_step(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small))
    with pytest.raises(UsageError, match="unknown step 'jugde'. Did you mean 'judge'"):
        run_cycle(read_cycle(path), tmp_path, world(tmp_path), until="jugde")


def test_settings_are_told_as_they_were(released, small):
    begun = json.loads((released[0] / "cycles" / "0001" / "cycle.json").read_text())
    assert begun["because"] == ["asked for"] and begun["from"]["version"] == "1"
    assert begun["config"]["select"]["budget"] == 80
    config = read_cycle(released[0] / "cycle.toml")
    assert dataclasses.asdict(config)["select"]["selector"] == begun["config"]["select"]["selector"]


def test_of_an_item_in_several_catalogues_the_first_text_counts(small, tmp_path):
    from trainer.cycle.samples import render_catalogue

    write_rows(tmp_path / "one.jsonl", [{"id": "a", "name": "Bike"}, {"id": "b", "name": "Boat"}])
    write_rows(tmp_path / "two.jsonl", [{"id": "a", "name": "Tram"}, {"id": "c", "name": "Cart"}])
    paths, renderer = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"], small[1].renderer
    texts = {key: renderer({"id": key, "name": name}) for key, name in (("a", "Bike"), ("b", "Boat"), ("c", "Cart"))}
    assert render_catalogue(paths, renderer) == texts
    assert render_catalogue(paths, renderer, {"a", "c", "d"}) == {"a": texts["a"], "c": texts["c"]}
    write_rows(tmp_path / "two.jsonl", [{"name": "Tram"}])
    with pytest.raises(InputError, match=r"two.jsonl, line 1: .*id"):
        render_catalogue(paths, renderer)


def test_items_that_no_catalogue_has_are_known_by_their_text(small, tmp_path):
    from trainer.cycle.samples import write_items

    write_rows(tmp_path / "items.jsonl", [{"id": "a", "name": "Bike"}])
    template = small[1].card.template
    tasks = [{"item_id": "a", "text": "other"}, {"item_id": "b", "text": "Seaside cover", "slice": "home"}]
    assert write_items(tmp_path / "out.jsonl", [tmp_path / "items.jsonl"], template, tasks) == 1
    assert read_rows(tmp_path / "out.jsonl") == [
        {"id": "a", "name": "Bike"}, {"id": "b", "darl_text": "Seaside cover", "kind": "home"},
    ]  # fmt: skip
    assert small[1].renderer(read_rows(tmp_path / "out.jsonl")[1]) == "Seaside cover"
