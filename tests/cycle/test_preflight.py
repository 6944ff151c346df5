"""What could fail only after people have judged is refused before, or left out and said."""

from __future__ import annotations

import json
import shutil

import pytest

from darl_opensearch.cli.cycle import summarize_cycle
from darl_opensearch.errors import DarlError
from tests.helpers.bundles import copy_bundle, correct_digests
from tests.helpers.cycles import world, write_cycle
from tests.helpers.files import read_rows, write_rows
from trainer.cycle.config import read_cycle
from trainer.cycle.inputs import FirstTraining
from trainer.cycle.run import plan_cycle, run_cycle
from trainer.cycle.steps.train import derive_config

THREE = "train.stages=['refit', 'augmented', 'interpolate']"


def training(small):
    return small[0].folder.parent / "data" / "darl.toml"


@pytest.fixture(scope="module")
def cycle(small, tmp_path_factory):
    """A cycle that has not begun; read-only."""
    return write_cycle(tmp_path_factory.mktemp("preflight"), small[1], training(small))


def refuse(path, overrides, message):
    """Expect an error of a dry run and of a run, and that neither has begun a cycle."""
    for look in (plan_cycle, run_cycle):
        with pytest.raises(DarlError, match=message):
            look(read_cycle(path, overrides), path.parent, world(path.parent))
    assert not (path.parent / "cycles" / "0001").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.set=['augment.epoch=3']"], r"darl.toml: unknown key \[augment\] epoch. Did you mean 'epochs'"),
        (["train.set=['loss.grade=\"nosuch\"']"], "nosuch"),
        (["train.set=['model.query_cap=47']"], r"\[model\] query_cap is 47, and the bundle's is 48"),
        (["train.set=['stages.device=\"gpu\"']"], r"\[stages\] device is 'gpu'. Choose auto, cpu or cuda"),
        (["train.set=['ood.alpha=0.0001']"], "calibration pairs are too few for a false-alarm rate of 0.0001"),
        (["train.stages=['distill']"], r"\[distill\] teacher is empty"),
        (["train.stages=['distill']", "train.set=['distill.teacher=\"file:nosuch.jsonl\"']"], "nosuch.jsonl"),
        (["train.stages=['refit', 'interpolate']"], "lists interpolate without augmented before it"),
        ([THREE, "train.ood_dev_share=0"], r"\[train\] stages lists interpolate, but \[train\] ood_dev_share is 0"),
        (["gate.relevant_from=3"], r"\[gate\] relevant_from: grade 3 does not split the scale 0..2"),
        (["gate.int8=true"], r"\[gate\] int8 is true, and \[train\] int8 is false"),
        (["gate.min_queries=17"], r"id_test.jsonl: the ID test has 16 queries, and \[gate\] min_queries is 17"),
        (["gate.min_queries=13"], r"\[select\] control_queries: the control arm has 12 queries, .*refuse any result"),
    ],
)  # fmt: skip
def test_settings_that_a_later_step_would_refuse(cycle, overrides, message):
    refuse(cycle, overrides, message)


def test_what_is_just_enough_begins(cycle):
    overrides = [THREE, "gate.min_queries=12", "train.set=['augment.epochs=3']"]
    assert plan_cycle(read_cycle(cycle, overrides), cycle.parent, world(cycle.parent)).begins


@pytest.mark.parametrize(
    ("change", "message"),
    [({"grade": 3}, r"id_test.jsonl, line 1.*grade"), ({"item_id": "nosuch"}, r"id_test.jsonl, line 1.*nosuch")],
)
def test_an_id_test_that_evaluation_could_not_read(small, tmp_path, change, message):
    path = write_cycle(tmp_path, small[1], training(small))
    first, *others = read_rows(tmp_path / "id_test.jsonl")
    write_rows(tmp_path / "id_test.jsonl", [first | change, *others])
    refuse(path, [], message)


def test_a_bundle_without_a_checkpoint(small, tmp_path):
    path = write_cycle(tmp_path, small[1], training(small))
    bundle = copy_bundle(small[1], tmp_path / "bundle")
    shutil.rmtree(bundle / "checkpoint")
    correct_digests(bundle)
    refuse(path, ["model.bundle='bundle'"], "the bundle has no checkpoint to go on from")


def test_a_serving_bundle_without_the_graph_that_the_gate_scores_with(small, tmp_path):
    path, bundle = write_cycle(tmp_path, small[1], training(small)), copy_bundle(small[1], tmp_path / "bundle")
    card = json.loads((bundle / "darl.json").read_text())
    card["files"] = {name: digest for name, digest in card["files"].items() if "int8" not in name}
    (bundle / "darl.json").write_text(json.dumps(card))
    refuse(path, ["model.bundle='bundle'", "gate.int8=true", "train.int8=true"], r"int8\.onnx")


def test_training_data_that_have_changed_since_the_first_training(small, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(training(small).parent, data)
    path = write_cycle(tmp_path, small[1], data / "darl.toml")
    (row, *rows) = read_rows(data / "judgments.jsonl")
    write_rows(data / "judgments.jsonl", [row | {"grade": 9}, *rows])
    refuse(path, [], r"judgments.jsonl, line 1.*grade")


def test_interpolation_without_queries_to_choose_by_is_left_out_and_said(cycle, tmp_path):
    """Of 20 selected queries .2 would be four, and fewer than five are none."""
    shutil.copytree(cycle.parent, tmp_path / "cycle")
    path = tmp_path / "cycle" / "cycle.toml"
    overrides = [THREE, "train.set=['augment.epochs=1']"]
    result = run_cycle(read_cycle(path, overrides), path.parent, world(path.parent), until="train")
    train = result.steps["train"]
    assert train["pairs"]["ood_dev"] == 0 and train["pairs"]["new"] > 0
    assert [stage["stage"] for stage in train["stages"]] == ["refit", "augmented"]
    assert train["left_out"] == ["interpolate"] and "interpolate left out: " in summarize_cycle(result)


def test_interpolation_with_queries_to_choose_by_runs(cycle, tmp_path):
    shutil.copytree(cycle.parent, tmp_path / "cycle")
    path = tmp_path / "cycle" / "cycle.toml"
    overrides = [THREE, "train.set=['augment.epochs=1']", "train.ood_dev_share=0.5"]
    result = run_cycle(read_cycle(path, overrides), path.parent, world(path.parent), until="train")
    train = result.steps["train"]
    assert train["pairs"]["ood_dev"] > 0 and train["left_out"] == []
    assert [stage["stage"] for stage in train["stages"]] == ["refit", "augmented", "interpolate"]
    assert "left out" not in summarize_cycle(result)


def test_a_teachers_files_are_found_from_the_cycles_folder(small, tmp_path):
    """Paths in darl.toml are relative to it, and the cycle trains in a folder of its own."""
    data, project = tmp_path / "data", tmp_path / "cycles" / "0001" / "train"
    shutil.copytree(training(small).parent, data)
    with (data / "darl.toml").open("a") as file:
        file.write('\n[distill]\nteacher = "file:../scores.jsonl"\npool = "pool.jsonl"\n')
    config = read_cycle(write_cycle(tmp_path / "c", small[1], data / "darl.toml")).train
    derived = derive_config(
        config, FirstTraining(data / "darl.toml"), small[1], project, version="2", with_ood_dev=False
    )
    assert (
        derived.distill.teacher == "file:../../../scores.jsonl" and derived.distill.pool == "../../../data/pool.jsonl"
    )
    url = derive_config(
        read_cycle(tmp_path / "c" / "cycle.toml", ["train.set=['distill.teacher=\"https://t.example/rerank\"']"]).train,
        FirstTraining(data / "darl.toml"), small[1], project, version="2", with_ood_dev=False,
    )  # fmt: skip
    assert url.distill.teacher == "https://t.example/rerank"
