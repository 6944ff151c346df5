"""A run and a bundle written by commit 7753907 still open, score the same, and go on."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from darl_opensearch.bundle import Bundle
from darl_opensearch.records.items import read_items
from darl_opensearch.scoring import Scorer
from tests.helpers.files import read_rows
from trainer import run_folder
from trainer.config import read_config
from trainer.evaluate.systems.models import open_run
from trainer.export.card import render_model_card
from trainer.report import write_report
from trainer.stages import fit, plan

DEFAULTS = ["loss.rank_weight=3.0", "stages.head_learning_rate=5e-3"]  # as they were
MADE = Path(__file__).parents[1] / "fixtures" / "trained_at_7753907.tar.gz"


@pytest.fixture
def project(tmp_path, monkeypatch):
    with tarfile.open(MADE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later have it
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)  # its configuration names the base model by a relative path
    return tmp_path


def train(project, *overrides):
    return plan.train(read_config(project / "darl.toml", [*DEFAULTS, *overrides]), project, project / "run")


def test_the_bundle_scores_as_then(project):
    bundle = Bundle.open(project / "bundle")
    items = {row["id"]: row for row in read_rows(project / "items.jsonl")}
    with Scorer.open(bundle) as scorer:
        for row in json.loads((project / "scores.json").read_text()):
            texts = [bundle.renderer(items[item_id]) for item_id in row["items"]]
            (scores,) = scorer.score_many([(row["query"], texts)])
            assert scores.data.tolist() == [pytest.approx(then, abs=1e-4) for then in row["bundle"]]


def test_the_run_scores_as_then(project):
    items = {}

    def read_catalogue(renderer):
        items.update(read_items(project / "items.jsonl", renderer))
        return items

    run = open_run(project / "run", read_catalogue)
    for row in json.loads((project / "scores.json").read_text()):
        scores = run.rows([(row["query"], items[item_id].text) for item_id in row["items"]])
        assert scores.tolist() == [pytest.approx(then, abs=1e-4) for then in row["run"]]
    assert run_folder.data_root(project / "run").samefile(project)


def test_the_report_says_what_was_not_recorded(project):
    written = write_report(project / "run")
    assert any("Confusion and reliability were not recorded" in why for why in written.missing)
    assert any("no OOD dev queries" in why for why in written.missing)
    assert "kept by an earlier version" in written.path.read_text(encoding="utf-8")


def test_the_same_configuration_and_data_are_the_same_run(project, monkeypatch):
    monkeypatch.setattr(fit.Fit, "run", None)
    trained = train(project)
    assert trained.result == json.loads((project / "run" / "result.json").read_text())


def test_a_run_that_was_broken_off_ends_as_it_would_have(project, monkeypatch):
    monkeypatch.setattr(fit.Fit, "run", None)  # its stages are done
    then, result = load_file("run/checkpoint/model.safetensors"), run_folder.load_run(project / "run").result
    (project / "run" / "result.json").unlink()
    shutil.rmtree(project / "run" / "checkpoint")
    trained = train(project)
    now = load_file("run/checkpoint/model.safetensors")
    assert now.keys() == then.keys()
    assert all(now[name].flatten().tolist() == pytest.approx(then[name].flatten().tolist(), abs=1e-3) for name in then)
    assert trained.result["dev"] == pytest.approx(result["dev"], abs=1e-3)
    assert trained.result["stages"] == result["stages"]


def test_a_training_starts_from_the_bundle(project):
    config = read_config(project / "darl.toml", ["model.base='bundle:bundle'", "stages.run=[]"])
    model, _ = plan.prepare(config, project)
    then = load_file("run/checkpoint/model.safetensors")
    now = model.state_dict()
    assert all(now[name].equal(tensor) for name, tensor in then.items())


def test_what_its_stages_say(project, darl):
    overrides = [word for default in DEFAULTS for word in ("--set", default)]
    code, _, told = darl("train", project / "darl.toml", "--run", project / "run", *overrides)
    assert code == 0 and "stage head: kept by an earlier version" in told or "rolled back by an earlier version" in told
    text = render_model_card(Bundle.open(project / "bundle").card, run_folder.load_run(project / "run").result)
    assert "| head | not measured |" in text
