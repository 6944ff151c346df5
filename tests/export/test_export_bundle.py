"""What export leaves behind: a whole bundle, or nothing."""

from __future__ import annotations

import json
import re
import shutil
import tempfile

import numpy as np
import pytest

import trainer.export.run as exporting
from darl_opensearch.bundle import CHECKPOINT, MODEL_INT8, Bundle
from darl_opensearch.errors import BundleError, DarlError, GateRefused, InputError
from darl_opensearch.scoring import Scorer
from tests.helpers.files import read_rows, write_rows
from tests.helpers.trained import train_and_export, write_project
from trainer.export import export_run, judged_pairs, states
from trainer.export.card import render_model_card
from trainer.run_folder import load_run
from trainer.stages.ood_stage import measure_flagged
from trainer.training_data.features import Features
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import RunData


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go: must be empty afterwards."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def base_of(trained):
    return trained.folder.parent / "data"


def snapshot(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_files_of_a_bundle(small):
    _, bundle = small
    names = {name for name in bundle.digests if not name.startswith(CHECKPOINT)}
    assert names == {
        "model.onnx", "features.onnx", "tokenizer.json", "opensearch.zip", "README.md",
        "probes.json", "ood/calibration.npy", "ood/reference.npy", "ood/reference.json",
        "encode.onnx", "encode_int8.onnx", "meet.onnx", "meet_int8.onnx", "ood/sides.onnx",
        "ood/sides_int8.onnx",
    }  # fmt: skip
    kinds = {p.suffix for p in bundle.path.rglob("*") if p.is_file()}
    assert kinds <= {".onnx", ".json", ".zip", ".md", ".npy", ".safetensors"}  # no pickle
    assert [p.name for p in bundle.path.parent.iterdir() if p.name.startswith(".")] == []


def test_card(small):
    trained, bundle = small
    card, data = bundle.card, json.loads((bundle.path / "darl.json").read_text(encoding="utf-8"))
    assert (card.name, card.version, card.backbone) == ("small", "1", "split")
    assert (card.query_cap, card.item_cap, card.max_length) == (48, 72, 124)
    assert card.scale.names == ("none", "some", "most") and card.scale.gains == (0, 1, 3)
    assert card.template.fields == ("=name", "cover", "exclusions", "who") and card.template.slice_field == "kind"
    assert (card.ood.detector, card.ood.features, card.ood.alpha) == ("knn", "pair", 0.05)
    assert card.ood.calibration_pairs == len(bundle.calibration()) == trained.data["traffic"]["pairs"]
    assert card.ood.calibration_queries == trained.data["traffic"]["queries"]
    assert card.training["data"] == trained.data and card.training["seed"] == 5
    assert card.metrics["dev"] == trained.result["dev"]
    for which in ("dev_start", "dev"):
        interval = card.metrics["ndcg_intervals"][which.removeprefix("dev_")]
        assert interval["low"] <= interval["mean"] == card.metrics[which]["ndcg@10"] <= interval["high"]
        assert interval["n"] == card.metrics[which]["queries"]
    assert set(card.graphs) == {"model.onnx", "features.onnx", "meet.onnx", "meet_int8.onnx"}
    assert set(data["files"]) == set(bundle.digests) and data["format"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", card.created)


def test_model_card_for_people(small):
    trained, bundle = small
    text = (bundle.path / "README.md").read_text(encoding="utf-8")
    head = text.split("---")[1]
    assert "license: apache-2.0" in head and "pipeline_tag: text-ranking" in head
    assert f"base_model: {trained.config.model.base}" in head
    for line in ("# small 1", "| 0 | none | 0 |", "| 1 | some | 1 |", "| 2 | most | 3 |", "| head | "):
        assert line in text
    assert f"{trained.data['train']['queries']} queries with {trained.data['train']['pairs']} graded pairs" in text
    pairs = trained.result["ood"]["calibration_pairs"]
    assert f"Detector `knn` on pair features, calibrated for a false-alarm rate of 0.05 on {pairs} pairs" in text
    assert re.search(r"\| nDCG, 95 % interval over queries \| \[0\.\d{4}, [01]\.\d{4}\] \| \[0\.", text)
    assert "arXiv:2412.12504" in text and "independent implementation" in text
    assert not re.search(r"\bnan\b|\binf\b|\{\w*\}", text)


def test_a_model_card_without_a_figure(small):
    """Dev queries without any relevant item: no nDCG, and no gain that a stage was decided by."""
    trained, bundle = small
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    result = trained.result | {
        "stages": [{"stage": "full", "kept": False, "rps_gain": nothing, "gain": nothing}],
        "ndcg_intervals": {"start": nothing, "dev": nothing},
    }
    text = render_model_card(bundle.card, result)
    assert "| full | no query to decide on | no query to decide on | rolled back |" in text
    one = nothing | {"mean": 0.1, "n": 1}
    result["stages"] = [{"stage": "full", "kept": False, "rps_gain": one, "gain": one}]
    assert "| full | +0.1000 (one query) | +0.1000 (one query) |" in render_model_card(bundle.card, result)
    assert "| nDCG, 95 % interval over queries | none | none |" in text


def test_a_model_card_says_what_a_flag_means_for_a_grade(small):
    trained, bundle = small
    measured = trained.result["ood"]["flagged"]["dev"]
    assert measured["pairs"] == trained.result["dev"]["pairs"]
    share = {"mean": 0.4, "low": 0.2, "high": 0.6, "n": 9}
    dev = {
        "flagged": 10, "pairs": 50, "wrong_flagged": share, "wrong_other": share | {"mean": 0.2}, "rps_flagged": share,
        "rps_other": share, "wrong_ratio": {"mean": 2.0, "low": 0.9, "high": 3.14, "n": 9},
    }  # fmt: skip
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    unflagged = dev | {"flagged": 0, "wrong_flagged": nothing, "rps_flagged": nothing, "wrong_ratio": nothing}

    def render(flagged):
        return render_model_card(bundle.card, trained.result | {"ood": trained.result["ood"] | {"flagged": flagged}})

    text = render({"dev": dev, "ood_dev": unflagged})
    assert "| dev, flagged | 10 | 0.4000 [0.2000, 0.6000] | 0.4000 [0.2000, 0.6000] |" in text
    assert "| dev, others | 40 | 0.2000 [" in text and "| OOD dev, flagged | 0 | no pair | no pair |" in text
    words = (
        "Grades of flagged pairs of the dev queries are wrong 2.0 times as often as those of the others (0.9 to 3.1)."
    )
    assert text.endswith(words + "\n") and "flagged pairs of the OOD dev" not in text
    assert "What a flag means" not in render({})
    one = {"mean": 0.25, "low": None, "high": None, "n": 1}  # a single query has a figure and no interval
    text = render({"dev": dict.fromkeys(dev, one) | {"flagged": 1, "pairs": 2}})
    assert "| dev, flagged | 1 | 0.2500 (one query) | 0.2500 (one query) |" in text and "times as often" not in text


def test_a_model_card_says_how_far_thresholds_can_be_relied_on(small):
    trained, bundle = small
    measured = trained.result["thresholds"]
    assert measured["pairs"] == trained.result["dev"]["pairs"]
    assert [row["min_grade"] for row in measured["min_grade"]] == [1, 2]
    assert [row["min_score"] for row in measured["min_score"]] == [0.25, 0.5, 0.75]
    text = render_model_card(bundle.card, trained.result)
    row, least = measured["min_grade"][0], measured["min_score"][2]
    assert f"| 1 (some) | {row['kept']} | " in text and f"| 0.75 | {least['kept']} | " in text
    assert "## Thresholds" not in render_model_card(bundle.card, trained.result | {"thresholds": None})


def test_the_dev_queries_are_flagged_by_a_detector_that_does_not_know_them(small):
    """The bundle's own detector knows the dev pairs; the one that measures must not."""
    trained, _ = small
    features, config = Features(trained.model), trained.config
    data = read_data(config, base_of(trained), trained.model.tokenizer())
    pairs = {"dev": data.judged(data.dev)}

    learnt = []

    class Watched(RunData):
        def judged(self, queries):
            learnt.extend(query.query_id for query in queries)
            return super().judged(queries)

    watched = Watched(**vars(data))
    assert measure_flagged(features, config.ood, watched, pairs, seed=config.seed) == trained.result["ood"]["flagged"]
    assert learnt and not {query.query_id for query in data.dev} & set(learnt)


def test_the_checkpoint_starts_the_next_cycle(small):
    trained, bundle = small
    from trainer.models import SplitReranker

    model = SplitReranker.load(bundle.path / CHECKPOINT)
    for name, value in trained.model.state_dict().items():
        assert value.equal(model.state_dict()[name])
    assert json.loads((bundle.path / CHECKPOINT / "config.json").read_text())["model"]["name"] == "small"
    assert json.loads((bundle.path / CHECKPOINT / "data.json").read_text()) == trained.data  # digests of the pairs


def test_probes_are_what_torch_said(small):
    pairs, rows = small[1].probes()
    assert 20 < len(pairs) <= 48 and rows.shape == (len(pairs), 6)
    assert any("中文" in query for query, _ in pairs) and any(len(query) > 500 for query, _ in pairs)


def test_exporting_twice_gives_the_same_model(small, tmp_path):
    trained, bundle = small
    again = export_run(load_run(trained.folder), base_of(trained), tmp_path / "again")
    assert again.identity == bundle.identity  # what register recognises
    differing = {name for name in bundle.digests if again.digests.get(name) != bundle.digests[name]}
    assert differing == set()


def test_training_twice_gives_the_same_model(small, checkpoint, tmp_path):
    config = write_project(tmp_path / "data", str(checkpoint))
    _, bundle = train_and_export(tmp_path, config, int8=False, checkpoint=False)
    assert bundle.identity == small[1].identity
    assert MODEL_INT8 not in bundle.digests and not (bundle.path / CHECKPOINT).exists()
    assert set(bundle.card.graphs) == {"model.onnx", "features.onnx", "meet.onnx"}
    assert bundle.card.states == small[1].card.states


def test_options_of_the_command(small, tmp_path, darl):
    trained, bundle = small
    out = tmp_path / "out"
    code, said, err = darl("export", trained.folder, "--out", out, "--no-int8", "--no-checkpoint", "--texts", "--json")
    assert (code, err) == (0, "")
    assert json.loads(said)["bundle"] == str(out) and json.loads(said)["graphs"].keys() == {
        "model.onnx", "features.onnx", "meet.onnx",
    }  # fmt: skip
    exported = Bundle.open(out)
    assert exported.identity == bundle.identity
    assert sorted(exported.digests) == [
        "README.md", "encode.onnx", "features.onnx", "meet.onnx", "model.onnx", "ood/calibration.npy",
        "ood/reference.json", "ood/reference.npy", "ood/sides.onnx", "ood/texts.jsonl", "opensearch.zip", "probes.json",
        "tokenizer.json",
    ]  # fmt: skip
    held, data = exported.training_texts(), trained.folder.parent / "data"
    judged = read_rows(data / "judgments.jsonl")
    assert (
        set(held.queries) == {row["query"] for row in judged} and len(held.queries) == trained.data["train"]["queries"]
    )
    assert {item_id for item_id, _ in held.items} <= {row["item_id"] for row in judged} and len(held.items) > 3
    assert exported.card.training["texts"] == {"queries": len(held.queries), "items": len(held.items)}
    assert f"The texts of {len(held.queries)} queries" in (out / "README.md").read_text()
    assert "ood/texts.jsonl" not in bundle.digests  # only if asked for
    assert darl("check", out)[0] == 0


def test_states_that_differ_too_much_are_left_out(small, tmp_path, monkeypatch):
    monkeypatch.setattr(states, "SCORE_BOUND", -1)
    bundle = export_run(small[0], small[0].folder.parent / "data", tmp_path / "out", checkpoint=False)
    assert re.fullmatch(r"a score differs by 0\.\d{4}, bound -1", bundle.card.graphs["meet.onnx"]["left_out"])
    assert not {"encode.onnx", "meet.onnx", "meet_int8.onnx", "ood/sides.onnx"} & bundle.digests.keys()
    assert MODEL_INT8 in bundle.digests and bundle.card.states == {}


def test_with_many_dev_queries_states_are_compared_on_these_alone(small, tmp_path, monkeypatch):
    monkeypatch.setattr(judged_pairs, "LEAST_QUERIES", 1)
    bundle = export_run(small[0], small[0].folder.parent / "data", tmp_path / "out", int8=False, checkpoint=False)
    compared = bundle.card.graphs["meet.onnx"]
    assert 0 < compared["ndcg_change"]["queries"] <= small[0].data["dev"]["queries"] and "left_out" not in compared


@pytest.mark.parametrize("kind", ["small", "small_cross"])
def test_a_quantised_graph_that_changes_ndcg_is_left_out(request, kind, tmp_path, monkeypatch):
    trained, whole = request.getfixturevalue(kind)
    name = "meet_int8.onnx" if kind == "small" else MODEL_INT8
    change = whole.card.graphs[name]["ndcg_change"]
    assert change["queries"] > trained.data["dev"]["queries"] and "left_out" not in whole.card.graphs[name]
    assert f"| `{name}` | {change['mean']:+.4f} ± {change['standard_error']:.4f} |" in (
        (whole.path / "README.md").read_text()
    )
    monkeypatch.setattr(judged_pairs, "NDCG_BOUND", -1)
    said = []
    bundle = export_run(trained, trained.folder.parent / "data", tmp_path / "out", checkpoint=False, report=said.append)
    reason = bundle.card.graphs[name]["left_out"]
    assert re.fullmatch(r"nDCG differs by -?0\.\d{4} beyond two standard errors, bound -1", reason)
    assert f"no int8 graph: {reason}" in said and not [file for file in bundle.digests if "int8" in file]
    assert bundle.has_states(int8=False) == (kind == "small") and not bundle.has_states(int8=True)
    with pytest.raises(BundleError, match="this bundle has no model_int8.onnx"):
        Scorer.open(bundle, int8=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([0.3] + [0.0] * 20, False),
        ([0.004, 0.006] * 100, True),
        ([-0.02, 0.03] * 2, False),
        ([-0.03, 0.0] * 43, True),
        ([-0.03, 0.03, -0.01] * 29, False),  # as the insurance sample's: -.004 with an error of .005
    ],
)
def test_quantised_graphs_are_left_out_beyond_two_standard_errors(changes, says):
    measured = judged_pairs.summarise_changes(np.array(changes))
    assert bool(judged_pairs.find_int8_obstacle(measured)) is says


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([0.3] + [0.0] * 20, ""),  # one swap of near-ties
        ([-0.07] + [0.0] * 20, ""),
        ([0.004, 0.006] * 100, "nDCG differs by 0.0049, bound 0.002"),
        ([-0.3, 0.0, -0.1, 0.0] * 5, "nDCG differs by 0.0719, bound 0.002"),
    ],
)
def test_a_swap_of_near_ties_does_not_leave_states_out(changes, says):
    report = {"score_difference": {"max": 0.004}, "ood_agreement": 0.995}
    report["ndcg_change"] = judged_pairs.summarise_changes(np.array(changes))
    assert report["ndcg_change"]["queries"] == len(changes)
    assert states.find_states_obstacle(report) == says


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("add_states", RuntimeError("out of memory")),
        ("_reference", OSError(28, "No space left on device")),
        ("render_model_card", KeyboardInterrupt()),
        ("export_graphs", DarlError("the tracer gave up")),
    ],
)
@pytest.mark.parametrize("older", [True, False])
def test_nothing_is_half_written(small, tmp_path, scratch, monkeypatch, place, error, older):
    trained, bundle = small
    target = tmp_path / "bundles" / "here"
    target.parent.mkdir()
    if older:
        shutil.copytree(bundle.path, target)
    before = snapshot(tmp_path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(exporting, place, fail)
    with pytest.raises(type(error)):
        export_run(trained, base_of(trained), target)
    assert {k: v for k, v in snapshot(tmp_path).items() if target in (tmp_path / k).parents} == {
        k: v for k, v in before.items() if target in (tmp_path / k).parents
    }
    assert [p.name for p in target.parent.iterdir()] == (["here"] if older else [])
    if older:
        assert Bundle.open(target).digests == bundle.digests


def test_a_graph_that_says_something_else_is_refused(small, tmp_path, scratch, monkeypatch):
    trained, _ = small
    say = exporting.run_torch

    def shifted(*arguments):
        scores, features = say(*arguments)
        return scores + 2e-4, features

    monkeypatch.setattr(exporting, "run_torch", shifted)
    with pytest.raises(GateRefused, match=r"model\.onnx: scores: off by at most 2\.0e-04, bound 0\.0001"):
        export_run(trained, base_of(trained), tmp_path / "bundle")
    monkeypatch.setattr(exporting, "run_torch", lambda *a: (say(*a)[0], say(*a)[1] + 1e-3))
    with pytest.raises(GateRefused, match=r"features\.onnx differs from torch by 1\.0e-03"):
        export_run(trained, base_of(trained), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_older_bundle_is_replaced(small, tmp_path):
    trained, bundle = small
    target = shutil.copytree(bundle.path, tmp_path / "bundle")
    (target / "stray.txt").write_text("of the older one")
    done = export_run(trained, base_of(trained), target, int8=False)
    assert not (target / "stray.txt").exists() and MODEL_INT8 not in done.digests
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_left_alone(small, tmp_path):
    trained, _ = small
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(DarlError, match="the folder exists and is not a bundle"):
        export_run(trained, base_of(trained), tmp_path / "home")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["letter.txt"]


def one_line(err):
    return err.startswith("darl: ") and err.count("\n") == 1


def test_an_unfinished_run_is_refused(small, tmp_path, darl):
    trained, _ = small
    run = shutil.copytree(trained.folder, tmp_path / "run")
    (run / "result.json").unlink()
    code, out, err = darl("export", run)
    assert (code, out) == (1, "") and one_line(err) and "has not finished. Run darl train" in err
    code, _, err = darl("export", tmp_path / "nowhere")
    assert code == 1 and one_line(err) and "the run does not exist" in err
    assert not (run / "bundle").exists() and not (tmp_path / "nowhere").exists()


def test_data_that_moved_are_named_by_an_option(small, tmp_path, darl):
    trained, bundle = small
    run, data = shutil.copytree(trained.folder, tmp_path / "run"), shutil.copytree(base_of(trained), tmp_path / "moved")
    (run / "root.txt").write_text(str(tmp_path / "where-it-was"))
    code, out, err = darl("export", run)
    assert (code, out) == (1, "") and one_line(err) and "--data" in err
    assert not (run / "bundle").exists()
    code, _, err = darl("export", run, "--data", data, "--no-int8")
    assert (code, err) == (0, "") and Bundle.open(run / "bundle").identity == bundle.identity


def test_data_that_changed_are_refused(small, tmp_path):
    trained, _ = small
    data = shutil.copytree(base_of(trained), tmp_path / "data")
    rows = read_rows(data / "traffic.jsonl")
    write_rows(data / "traffic.jsonl", rows[:60])
    with pytest.raises(InputError, match=r"differ from the run's training data.*--data"):
        export_run(trained, data, tmp_path / "bundle")
    (data / "traffic.jsonl").unlink()
    with pytest.raises(InputError, match=r"traffic\.jsonl"):
        export_run(trained, data, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
