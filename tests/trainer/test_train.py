"""Whole runs on a tiny random checkpoint: to the end, again, changed, broken off, rolled back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from darl_opensearch import cli
from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.io import writing
from tests.helpers.commands import run_main
from tests.helpers.files import write_rows
from tests.helpers.plan_project import kill_in_stage
from tests.helpers.training_project import write_project
from trainer import run_folder
from trainer.config import read_config
from trainer.ood import DETECTORS
from trainer.stages import fit, plan

FULL = {"stages": {"run": ["full"], "full_epochs": 2}}
ROOT = Path(cli.__file__).parents[2]


@pytest.fixture
def project(tmp_path, bases) -> Path:
    return write_project(tmp_path / "project", bases["bert"])


def train(path: Path, folder: Path, **options):
    return plan.train(read_config(path), path.parent, folder, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "model.safetensors")


def equal(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---- to the end, and again


@pytest.fixture(scope="module")
def commanded(tmp_path_factory, bases):
    """A run from the command line: its configuration, its folder, and how the command ended; read-only."""
    config = write_project(tmp_path_factory.mktemp("commanded") / "project", bases["bert"])
    return config, config.parent / "runs" / "small-1", run_main("train", config, "--json")


def test_a_run_from_the_command_line(commanded):
    _, folder, said = commanded
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result["run"] == str(folder)
    assert [stage["stage"] for stage in result["stages"]] == ["head", "full"]
    assert said.err.count("stage ") == 2 and "Traceback" not in said.err
    assert result["ood"]["calibration_pairs"] == 8 * 6  # items 14..19 were not judged
    assert result["dev"]["queries"] > 0
    assert not [p for p in folder.rglob("*") if ".tmp" in p.name or ".old" in p.name]


def test_the_same_command_again_does_nothing_and_tells_the_same(commanded, darl):
    config, folder, said = commanded
    before = files(folder)
    again = darl("train", config, "--json")
    assert again.code == 0 and json.loads(again.out) == json.loads(said.out)
    assert files(folder) == before


def test_a_run_can_be_loaded(commanded):
    trained = run_folder.load_run(commanded[1])
    assert not trained.model.training
    features = trained.model.pair_features(["bike theft", "xyz"], ["bike cover against theft", "boat"])
    assert torch.isfinite(trained.model.head.score(trained.model.head(features.head_input))).all()


def test_what_a_run_says_without_json(commanded, darl):
    config, folder, said = commanded
    code, text, told = darl("train", config)
    assert code == 0 and text.endswith(f"Next: darl export {folder}\n")
    result = json.loads(said.out)
    dev = json.loads((folder / "data.json").read_text())["dev"]["queries"]
    for stage in result["stages"]:
        gain = stage["rps_gain"]
        assert gain["n"] == dev + stage["out_of_fold"] and (stage["out_of_fold"] > 0) == (stage["stage"] == "head")
        parts = f"{gain['n']} queries ({dev} dev queries, the others out of fold)"
        over = f"over {parts if stage['out_of_fold'] else f'{dev} dev queries'}: RPS {gain['mean']:+.4f}"
        assert f"stage {stage['stage']}: {'kept' if stage['kept'] else 'rolled back'}" in told and over in told
        assert f"nDCG {stage['gain']['mean']:+.4f}" in told


def test_the_same_run_twice_gives_the_same_weights_and_another_seed_others(project, tmp_path):
    for name, extra in (("a", []), ("b", []), ("c", ["seed=1"])):
        plan.train(read_config(project, ["stages.run=['head']", *extra]), project.parent, tmp_path / name)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_folder_of_another_run(project, darl):
    assert darl("train", project, "--set", "stages.run=['head']")[0] == 0
    folder = project.parent / "runs" / "small-1"
    before = files(folder)
    code, _, err = darl("train", project)
    assert code == 1
    assert err == (f"darl: {folder / 'config.json'}: the folder holds a run with another configuration. "
                   "Choose another folder with --run, or pass --fresh to start over.\n")  # fmt: skip
    rows = (project.parent / "judgments.jsonl").read_text().splitlines(keepends=True)
    (project.parent / "judgments.jsonl").write_text("".join(rows[6:]))
    code, _, err = darl("train", project, "--set", "stages.run=['head']")
    assert code == 1 and "data.json: the folder holds a run with another data" in err
    assert files(folder) == before
    code, _, err = darl("train", project, "--set", "stages.run=['head']", "--fresh")
    assert code == 0, err
    assert files(folder) != before


def test_fresh_with_bad_input_keeps_the_old_run(project, darl):
    assert darl("train", project, "--set", "stages.run=[]")[0] == 0
    before = files(project.parent / "runs")
    (project.parent / "items.jsonl").write_text("{")
    assert darl("train", project, "--set", "stages.run=[]", "--fresh")[0] == 1
    assert files(project.parent / "runs") == before


def test_fresh_deletes_no_folder_that_is_not_a_run(project, tmp_path, darl):
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert darl("train", project, "--run", other, "--set", "stages.run=[]", "--fresh")[0] == 1
    assert (other / "config.json").read_text() == "{}"


def test_dry_run(project, darl):
    code, out, _ = darl("train", project, "--dry-run", "--json")
    told = json.loads(out)
    assert code == 0 and told["data"]["items"]["count"] == 20
    assert told["data"]["train"]["queries"] + told["data"]["dev"]["queries"] == 24
    code, text, _ = darl("train", project, "--dry-run")
    part = told["data"]["train"]
    assert code == 0 and f"  items     20\n  train     {part['pairs']} pairs of {part['queries']} queries\n" in text
    assert "sha256" not in text and "set aside" not in text
    assert not (project.parent / "runs").exists()


# ---- bad input


def add(name, row):
    return append(name, json.dumps(row) + "\n")


def append(name, text):
    def spoil(folder):
        path = folder / name
        path.write_text(path.read_text() + text)

    return spoil


ONE_GRADE = [{"query": f"q{n}", "item_id": "i0", "grade": 1} for n in range(9)]
BAD = {
    "unknown grade": (
        add("judgments.jsonl", {"query": "x", "item_id": "i0", "grade": 9}),
        "field 'grade' is 9, not a whole number in 0..2",
    ),
    "empty query": (add("judgments.jsonl", {"query": " ", "item_id": "i0", "grade": 1}), "field 'query' is empty"),
    "missing item": (
        add("judgments.jsonl", {"query": "x", "item_id": "i99", "grade": 1}),
        "item 'i99' is not in the items",
    ),
    "broken line": (append("judgments.jsonl", '{"query": '), "line 145: not JSON"),
    "10 MB item": (add("items.jsonl", {"id": "big", "title": "x" * 10_000_000}), "line 21: field 'title' has"),
    "10 MB query": (add("judgments.jsonl", {"query": "x" * 10_000_000, "item_id": "i0", "grade": 1}), "10,000,000"),
    "no items": (lambda f: (f / "items.jsonl").unlink(), "items.jsonl: cannot be read (No such file"),
    "one grade": (lambda f: write_rows(f / "judgments.jsonl", ONE_GRADE), "no query has items of two grades"),
    "no traffic": (lambda f: write_rows(f / "traffic.jsonl", [{"query": "qqq"}]), "provide at least 9 held-out pairs"),
}  # fmt: skip
SETTINGS = {
    "ood.detector=kn": "unknown detector 'kn'. Did you mean 'knn'?",
    "ood.params={kk=3}": "detector 'knn' has no parameter 'kk'",
    "loss.grade=cumulativ": "unknown grade loss 'cumulativ'",
    "loss.grade_params={threshold=1}": "grade loss 'cumulative' has no parameter 'threshold'",
    "loss.rank=pair": "unknown rank loss 'pair'",
    "model.backbone=crosss": "unknown backbone 'crosss'",
    "model.base=/no/such/folder": "/no/such/folder: the checkpoint cannot be loaded",
    "ood.alpha=0.01": "calibration pairs are too few for a false-alarm rate of 0.01",
    "model.item_cap=400": "has 300 positions",
}


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(project, case, dry, darl):
    spoil, message = BAD[case]
    spoil(project.parent)
    code, out, err = darl("train", project, *(["--dry-run"] if dry else []))
    assert code == 1 and out == ""
    assert err.startswith("darl: ") and err.count("\n") == 1 and len(err) < 600 and message.lower() in err.lower(), err
    assert not (project.parent / "runs").exists()


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_cannot_work_is_refused_before_the_training(project, setting, darl):
    code, _, err = darl("train", project, "--set", setting)
    assert code in (1, 2) and err.startswith("darl: ") and err.count("\n") == 1
    assert SETTINGS[setting] in err
    assert not (project.parent / "runs").exists()


def judge_everything(path):
    """Judgments of all twenty items, six a query."""
    folder = path.parent
    rows = [json.loads(line) for line in (folder / "judgments.jsonl").read_text().splitlines()]
    for n, row in enumerate(rows):
        row["item_id"] = f"i{n % 20}"
    write_rows(folder / "judgments.jsonl", rows)


def test_a_catalogue_that_is_judged_all_over_leaves_items_to_calibrate_on(tmp_path, bases, darl):
    path = write_project(tmp_path / "p", bases["bert"], stages={"run": ["head"]})
    judge_everything(path)
    code, out, err = darl("train", path, "--run", tmp_path / "run")
    assert code == 0, err
    assert "nearly all items are judged: 2 were set aside for calibration" in out
    trained = run_folder.load_run(tmp_path / "run")
    apart = set(trained.data["set_aside"])
    dry = darl("train", path, "--run", tmp_path / "run", "--dry-run")[1]
    assert f"2 are set aside for calibration ({', '.join(sorted(apart))})" in dry
    _, data = plan.prepare(read_config(path), path.parent)
    assert data.set_aside == apart and len(apart) == 2
    assert not apart & {i for q in data.learnt for i in q.item_ids}
    assert {i for _, ids in data.traffic for i in ids} == apart
    assert apart.isdisjoint(i for _, ids in data.familiar for i in ids)
    assert trained.data["train"]["pairs"] + trained.data["dev"]["pairs"] == sum(
        json.loads(line)["item_id"] not in apart for line in (path.parent / "judgments.jsonl").read_text().splitlines()
    )
    assert trained.result["ood"]["calibration_pairs"] == sum(len(ids) for _, ids in data.traffic) >= 9


@pytest.mark.parametrize(("depth", "made"), [(9, False), (16, True)])
def test_a_few_items_that_nobody_judged_are_too_few(tmp_path, bases, depth, made):
    """Enough pairs for the calibration, but of one item, and hardly any of what is retrieved."""
    path = write_project(tmp_path / "p", bases["bert"])
    judge_everything(path)
    judgments = path.parent / "judgments.jsonl"
    rows = [json.loads(line) for line in judgments.read_text().splitlines()]
    write_rows(judgments, [row for row in rows if row["item_id"] != "i19"])
    retrieved_ = [f"i{n}" for n in range(20 - depth, 20)]
    write_rows(path.parent / "traffic.jsonl", [{"query": f"traffic {n}", "items": retrieved_} for n in range(10)])
    _, data = plan.prepare(read_config(path), path.parent)
    calibrating = {i for _, ids in data.traffic for i in ids}
    assert calibrating == {"i19"} | data.set_aside and bool(data.set_aside) is made
    assert not calibrating & {i for q in data.learnt for i in q.item_ids}


def test_read_from_disk_it_is_refused(tmp_path, bases, darl):
    path = write_project(tmp_path / "p", bases["bert"], data={"store": "disk"})
    judge_everything(path)
    code, _, err = darl("train", path)
    assert code == 1 and "[ood] alpha: 0 calibration pairs are too few for a false-alarm rate of 0.1" in err


def test_a_query_in_training_and_dev_file(tmp_path, bases, darl):
    path = write_project(tmp_path / "p", bases["bert"], data={"dev": "dev.jsonl"})
    first = (path.parent / "judgments.jsonl").read_text().splitlines()[0]
    (path.parent / "dev.jsonl").write_text(first + "\n")
    code, _, err = darl("train", path)
    assert code == 1 and "dev.jsonl: query 'b" in err or "is also in the training part" in err
    assert err.count("\n") == 1


def test_a_run_that_is_not_there_or_not_finished(tmp_path, project):
    with pytest.raises(DarlError, match="the run does not exist"):
        run_folder.load_run(tmp_path / "nowhere")
    with pytest.raises(KeyboardInterrupt):
        train(project, tmp_path / "r", report=interrupt_at("stage head", 1))
    with pytest.raises(DarlError, match="the run has not finished"):
        run_folder.load_run(tmp_path / "r")


# ---- broken off


def interrupt_at(what: str, step: int):
    def report(now: str, done: int, total: int) -> None:
        if now == what and done == step:
            raise KeyboardInterrupt

    return report


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, bases):
    """A run whose full stage is kept whatever it brings, and its project."""
    folder = tmp_path_factory.mktemp("unbroken")
    path = write_project(folder / "project", bases["bert"], stages={"full_epochs": 4})
    with pytest.MonkeyPatch.context() as patch:
        keep_everything(patch)
        train(path, folder / "run")
    return path, folder / "run"


def keep_everything(patch) -> None:
    """Make every dev gain look large, so that a stage's weights are the run's."""
    real = plan.measure_ndcg
    calls = iter(range(10**6))
    patch.setattr(plan, "measure_ndcg", lambda *a: {q: v + next(calls) * 10.0 for q, v in real(*a).items()})


@pytest.mark.parametrize("steps", [[1], [2], [5, 9], [1, 2, 3, 19]])
def test_a_run_that_was_broken_off_ends_as_if_it_had_not_been(unbroken, tmp_path, monkeypatch, steps):
    path, whole = unbroken
    keep_everything(monkeypatch)
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            train(path, tmp_path / "run", report=interrupt_at("stage full", step))
    train(path, tmp_path / "run")
    assert equal(weights(tmp_path / "run"), weights(whole))
    found, wanted = (json.loads((f / "result.json").read_text()) for f in (tmp_path / "run", whole))
    assert found["dev"] == wanted["dev"] and found["ood"] == wanted["ood"]
    assert found["stages"][1]["history"] == wanted["stages"][1]["history"]


@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_run_killed_between_two_renames(unbroken, tmp_path, monkeypatch, call):
    """The moment in which neither the old nor the new checkpoint has its name."""
    path, whole = unbroken
    keep_everything(monkeypatch)
    calls = iter(range(1, 100))

    def half(source, target):
        if next(calls) == call:
            if target.exists():
                target.rename(target.with_name(f".{target.name}.0.old"))
            raise KeyboardInterrupt
        full_replace(source, target)

    full_replace = writing.replace_folder
    monkeypatch.setattr(writing, "replace_folder", half)
    with pytest.raises(KeyboardInterrupt):
        train(path, tmp_path / "run")
    monkeypatch.setattr(writing, "replace_folder", full_replace)
    train(path, tmp_path / "run")
    assert equal(weights(tmp_path / "run"), weights(whole))


def test_kill_9_in_the_middle_of_the_full_stage(tmp_path, bases):
    path = write_project(tmp_path / "p", bases["bert"], stages={"run": ["full"], "full_epochs": 25})
    train(path, tmp_path / "whole")
    kill_in_stage(path, tmp_path / "killed", "0-full")
    seen = []
    train(path, tmp_path / "killed", report=lambda what, done, total: seen.append((what, done)))
    first = next(done for what, done in seen if what == "stage full" and done > 0)
    assert first > 2  # it went on, it did not start over
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


# ---- a stage that hurts


def test_a_stage_that_hurts_is_rolled_back(tmp_path, bases):
    path = write_project(tmp_path / "p", bases["bert"], stages={"run": [], "full_epochs": 1})
    train(path, tmp_path / "without")
    config = read_config(path, ["stages.run=['full']", "stages.full_learning_rate=3.0", "stages.head_learning_rate=30"])
    result = plan.train(config, path.parent, tmp_path / "with").result
    assert [stage["kept"] for stage in result["stages"]] == [False]
    assert equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert not list((tmp_path / "with" / "stages").glob("*.safetensors"))
    json.dumps(result, allow_nan=False)


def test_a_loss_that_is_no_number(tmp_path, bases, monkeypatch):
    path = write_project(tmp_path / "p", bases["bert"], **FULL)
    real, calls = fit.Fit.take_step, iter(range(1, 100))

    def poisoned(self):
        value = real(self)
        return float("nan") if next(calls) == 6 else value

    monkeypatch.setattr(fit.Fit, "take_step", poisoned)
    with pytest.raises(DarlError) as caught:
        train(path, tmp_path / "run")
    text = str(caught.value)
    assert "the loss is nan at step 6" in text and "Lower [stages] full_learning_rate" in text and "\n" not in text
    place = tmp_path / "run" / "stages" / "0-full"
    assert all(torch.isfinite(t).all() for t in load_file(place / "best.safetensors").values())
    assert all(torch.isfinite(t).all() for t in load_file(place / "last.safetensors").values())
    assert not (tmp_path / "run" / "result.json").exists()


def test_weights_that_are_no_numbers_are_never_kept(tmp_path, bases, monkeypatch):
    """The last step's update overflows: the loss before it was fine, the dev loss after it is not."""
    path = write_project(tmp_path / "p", bases["bert"], **FULL)
    real = fit.Fit.take_step

    def overflow(self):
        value = real(self)
        if self.state.step == self.total_steps:
            with torch.no_grad():
                self.parameters[0].fill_(float("nan"))
        return value

    monkeypatch.setattr(fit.Fit, "take_step", overflow)
    trained = train(path, tmp_path / "run")
    assert all(torch.isfinite(p).all() for p in trained.model.parameters())
    json.dumps(trained.result, allow_nan=False)  # what --json prints
    json.dumps(json.loads((tmp_path / "run" / "result.json").read_text()), allow_nan=False)


def test_items_without_text_are_named_in_a_warning(tmp_path, bases, darl):
    path = write_project(tmp_path / "p", bases["bert"], stages={"run": []})
    with (path.parent / "items.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "b1", "kind": ""}\n')
    said = "passed over: 1 item without text (b1)\n"
    code, text, _ = darl("train", path, "--dry-run")
    assert code == 0 and said.rstrip() in text
    code, _, err = darl("train", path)
    assert code == 0 and f"warning: {said}" in err


def test_dev_queries_without_any_gain(tmp_path, bases, darl):
    """No nDCG to decide by: the stage is rolled back, and the figures say null."""
    path = write_project(tmp_path / "p", bases["bert"], data={"dev": "dev.jsonl"}, **FULL)
    write_rows(path.parent / "dev.jsonl", [{"query": "nothing", "item_id": f"i{n}", "grade": 0} for n in range(3)])
    code, out, err = darl("train", path, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["stages"][0]["kept"] is False and result["dev"]["ndcg@10"] is None
    assert darl("train", path)[0] == 0


def test_the_head_stage_earns_its_place(tmp_path, bases):
    """Where the judgments go against the cosine, the head turns it round."""
    path = write_project(tmp_path / "p", bases["bert"], contrary=True, stages={"run": ["head"]})
    trained = train(path, tmp_path / "run")
    stage = trained.result["stages"][0]
    assert stage["kept"] and stage["rps_gain"]["mean"] > stage["rps_standard_error"]
    assert (tmp_path / "run" / "stages" / "0-head.safetensors").is_file()
    assert trained.result["dev"]["ndcg@10"] > trained.result["start"]["ndcg@10"]


@pytest.mark.parametrize(
    ("detector", "space", "layers"),
    [
        *((name, "pair", "last") for name in DETECTORS), ("knn", "query", "last"), ("catalogue", "item", "average"),
        ("mahalanobis", "pair", "average"),
    ],
)  # fmt: skip
def test_every_detector_is_loaded_as_it_was_fitted(tmp_path, bases, detector, space, layers):
    path = write_project(
        tmp_path / "p", bases["bert"], stages={"run": []},
        ood={"detector": detector, "features": space, "layers": layers},
    )  # fmt: skip
    one = train(path, tmp_path / "run")
    two = run_folder.load_run(tmp_path / "run")
    with torch.no_grad():
        features = one.model.pair_features(["boat theft", "x"], ["boat cover", "y z"], layers=layers)
        raw = one.model.head(features.head_input)
        distances = [run.ood.distance(features, run.model.head, raw) for run in (one, two)]
    assert torch.equal(*distances) and len(set(distances[0].tolist())) == 2
    assert torch.equal(one.ood.calibration(distances[0]), two.ood.calibration(distances[1]))
    assert (two.ood.space, two.ood.layers, one.ood.report["layers"]) == (space, layers, layers)


@pytest.mark.parametrize(("backbone", "features"), [("split", "query"), ("cross", "pair")])
def test_a_detector_of_items_alone_needs_items_alone(tmp_path, bases, backbone, features):
    path = write_project(
        tmp_path / "p", bases["bert"], model={"backbone": backbone}, stages={"run": []},
        ood={"detector": "catalogue", "features": features},
    )  # fmt: skip
    with pytest.raises(UsageError) as caught:
        train(path, tmp_path / "run")
    assert "[ood] detector catalogue reads only items" in str(caught.value) and "split backbone" in str(caught.value)


def test_no_traffic_file_holds_queries_out(tmp_path, bases):
    path = write_project(tmp_path / "p", bases["bert"], data={"traffic": ""}, stages={"run": []})
    result = train(path, tmp_path / "run")
    assert result.data["train"]["queries"] + result.data["dev"]["queries"] == 24 - round(24 * 0.2)
    assert result.result["ood"]["calibration_queries"] == result.data["traffic"]["queries"] <= round(24 * 0.2)


def test_a_moved_run_still_loads(project, tmp_path):
    train(project, tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert run_folder.load_run(tmp_path / "moved").config.model.name == "small"
