"""Starting where a bundle's training ended, and the head on old and new samples."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from darl_opensearch.errors import InputError, UsageError
from tests.helpers.bundles import copy_bundle, correct_digests
from tests.helpers.files import read_rows, write_rows
from tests.helpers.trained import write_project
from trainer.config import read_config
from trainer.models import BACKBONES
from trainer.models.continued import load_starting_model
from trainer.stages.plan import prepare, train
from trainer.stages.registry import check_plan


def continued(small, checkpoint, folder, *overrides):
    """The project of the small bundle, from that bundle on; gives configuration and folder."""
    path = write_project(folder / "data", str(checkpoint))
    return read_config(path, [f"model.base='bundle:{small[1].path}'", *overrides]), path.parent


def test_training_starts_at_the_very_weights_that_the_bundle_has(small, checkpoint, tmp_path):
    config, base = continued(small, checkpoint, tmp_path)
    make, _ = BACKBONES.resolve("split", {})
    model, trained = load_starting_model(config, base, make), small[0].model
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    fresh = make.from_base(dataclasses.replace(config, model=dataclasses.replace(config.model, base=str(checkpoint))),
                           "cumulative")  # fmt: skip
    assert not torch.equal(fresh.head.weight, trained.head.weight)  # the comparison could have failed


def test_a_bundle_is_found_beside_the_configuration(small, checkpoint, tmp_path):
    config, base = continued(small, checkpoint, tmp_path)
    copy_bundle(small[1], tmp_path / "there")
    beside = dataclasses.replace(config, model=dataclasses.replace(config.model, base="bundle:../there"))
    assert prepare(beside, base)[0].head.k == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.query_cap=47", r"\[model\] query_cap is 47, and the bundle's is 48"),
        ("grades.gains=[0, 1, 4]", r"\[grades\] gains is \(0.0, 1.0, 4.0\), and the bundle's is \(0.0, 1.0, 3.0\)"),
        ("template.fields=['=name']", r"\[template\] is "),
        ("loss.grade='cross_entropy'", r"head of \[loss\] grade is 'nominal', and the bundle's is 'cumulative'"),
        ("model.backbone='cross'", r"\[model\] backbone is 'cross', and the bundle's is 'split'"),
    ],
)
def test_what_would_be_another_model_is_refused(small, checkpoint, tmp_path, override, message):
    config, base = continued(small, checkpoint, tmp_path, override)
    make, _ = BACKBONES.resolve(config.model.backbone, {})
    with pytest.raises(UsageError, match=message) as caught:
        load_starting_model(config, base, make)
    assert caught.value.todo == "keep what the bundle was trained with, or start from a base checkpoint"


def test_a_bundle_without_its_checkpoint_says_so(small, checkpoint, tmp_path):
    import shutil

    folder = copy_bundle(small[1], tmp_path / "bare")
    shutil.rmtree(folder / "checkpoint")
    config, base = continued(small, checkpoint, tmp_path)
    bare = dataclasses.replace(
        config, model=dataclasses.replace(config.model, base=f"bundle:{correct_digests(folder)}")
    )
    with pytest.raises(InputError, match="has no checkpoint to go on from. Export its run again without"):
        load_starting_model(bare, base, BACKBONES.resolve("split", {})[0])


def test_the_refit_head_learns_from_the_new_samples_and_stays(small, checkpoint, tmp_path):
    """Nothing but the new samples says that grades are upside down: a head that read them has turned."""
    config, base = continued(small, checkpoint, tmp_path)
    held = read_rows(base.parent / "data" / "judgments.jsonl")
    turned = [row | {"query": f"{row['query']} again", "query_id": f"n-{row['query_id']}", "grade": 2 - row["grade"]}
              for row in held]  # fmt: skip
    write_rows(base / "new.jsonl", turned)
    write_rows(base / "judgments.jsonl", held[: len(held) // 4])
    path = base / "darl.toml"
    overrides = [f"model.base='bundle:{small[1].path}'", "data.new='new.jsonl'", "stages.run=['refit']"]
    trained = train(read_config(path, overrides), base, tmp_path / "run")
    stage = trained.result["stages"][0]
    assert stage["kept"] and stage["decided_by"] == "the gate" and stage["learnt_new"]
    assert stage["judged_on"] == ["dev"]
    assert not torch.equal(trained.model.head.weight, small[0].model.head.weight)
    assert json.loads((tmp_path / "run" / "data.json").read_text())["new"]["pairs"] == len(turned)


def test_refit_needs_new_samples(checkpoint, tmp_path):
    path = write_project(tmp_path, str(checkpoint))
    with pytest.raises(UsageError, match=r"\[stages\] run lists refit, but \[data\] new is empty"):
        check_plan(read_config(path, ["stages.run=['refit']"]))
