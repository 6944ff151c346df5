"""Between the weights before and after: the mixture, the choice, the stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.errors import UsageError
from tests.helpers.plan_project import weights, write_plan
from tests.helpers.training_project import laws
from trainer.config import read_config
from trainer.stages import interpolation, plan
from trainer.stages.interpolation import Point, choose_point, mix_weights

CURVE = st.lists(st.tuples(st.floats(-0.1, 0.1), st.floats(0, 1)), min_size=1, max_size=12)


def points(rows) -> list[Point]:
    """Of changes of nDCG on ID, and RPS; the first is coefficient 0."""
    rows = [(0.0, rows[0][1]), *rows[1:]]
    return [Point(n / max(1, len(rows) - 1), change, rps) for n, (change, rps) in enumerate(rows)]


def train(path: Path, folder: Path, *overrides: str):
    return plan.train(read_config(path, overrides), path.parent, folder)


# ---- the mixture


def test_both_ends_are_exact_and_the_middle_is_the_mean():
    torch.manual_seed(0)
    before = {"w": torch.randn(50) * 1e3, "n": torch.tensor([1, 2]), "half": torch.randn(9).bfloat16()}
    after = {"w": torch.randn(50), "n": torch.tensor([3, 4]), "half": torch.randn(9).bfloat16(), "added": torch.ones(2)}
    for coefficient, end in ((0.0, before), (1.0, after)):
        mixture = mix_weights(before, after, coefficient)
        assert torch.equal(mixture["w"], end["w"]) and torch.equal(mixture["half"], end["half"])
        assert mixture["half"].dtype == torch.bfloat16
        assert torch.equal(mixture["n"], after["n"]) and torch.equal(mixture["added"], after["added"])
    torch.testing.assert_close(mix_weights(before, after, 0.5)["w"], (before["w"] + after["w"]) / 2)


# ---- the choice


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([(0, 0.05), (-0.001, 0.04), (-0.004, 0.03), (-0.02, 0.01)], 2),  # the best that costs no more than .005
        ([(0, 0.05), (0.01, 0.03), (0.02, 0.03)], 1),  # of equals the smaller
        ([(0, 0.05), (0.01, 0.06), (0.02, 0.05)], 0),  # nothing is better than not moving
        ([(0, 0.05), (-0.005, 0.04)], 1),  # by at most: the bound itself is allowed
        ([(0, 0.05), (-0.0051, 0.04)], 0),
        ([(0, 0.05), (float("nan"), 0.04)], 1),  # no dev query has a relevant item
    ],
)
def test_the_rule(rows, place):
    assert choose_point(points(rows), 0.005) == place


@laws
@given(rows=CURVE, tolerance=st.floats(0, 0.1))
def test_the_choice_costs_no_more_than_allowed_and_nothing_allowed_is_better(rows, tolerance):
    curve = points(rows)
    place = choose_point(curve, tolerance)
    assert curve[place].id_change >= -tolerance - 1e-9
    for other, point in enumerate(curve):
        if point.id_change >= -tolerance:
            assert point.rps >= curve[place].rps - 1e-9
            if point.rps == curve[place].rps:
                assert other >= place


# ---- the stage


@pytest.fixture(scope="module")
def plans(tmp_path_factory, bases):
    folder = tmp_path_factory.mktemp("plans")
    path = write_plan(folder / "p", bases["bert"], augment={"epochs": 3, "learning_rate": 3e-3})
    return path, folder


def test_the_curve_is_that_of_the_runs_own_weights(plans, tmp_path):
    """Coefficient 1 is the model after the augmented stage, 0 the one before it, by the figures of those runs."""
    path, _ = plans
    run = ["stages.run=['augmented', 'interpolate']", "interpolate.coefficients=[0.25, 1]", "interpolate.tolerance=1"]
    stage = train(path, tmp_path / "run", *run).result["stages"][1]
    curve = {point["coefficient"]: point for point in stage["curve"]}
    assert list(curve) == [0.0, 0.25, 1.0]
    start = train(path, tmp_path / "start", "stages.run=[]").result
    assert curve[0.0]["id_ndcg"] == start["start"]["ndcg@10"]
    assert curve[0.0]["ood_ndcg"] == start["ood_dev_start"]["ndcg@10"]
    assert curve[0.0]["id_change"]["mean"] == 0.0
    best = min(curve.values(), key=lambda point: point["id_rps"] + point["ood_rps"])
    assert stage["coefficient"] == best["coefficient"] and stage["kept"] and stage["decided_by"] == "interpolate"
    assert stage["learnt_new"] is (stage["coefficient"] > 0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["ood_dev"]["ndcg@10"] == best["ood_ndcg"]
    json.dumps(result, allow_nan=False)


def test_coefficient_0_drops_what_was_learnt(plans, tmp_path, monkeypatch):
    path, _ = plans
    monkeypatch.setattr(interpolation, "choose_point", lambda points, tolerance: 0)
    trained = train(path, tmp_path / "run", "stages.run=['augmented', 'interpolate']")
    stage = trained.result["stages"][1]
    assert stage["coefficient"] == 0.0 and stage["learnt_new"] is False
    without = train(path, tmp_path / "without", "stages.run=[]")
    found, wanted = weights(tmp_path / "run"), weights(tmp_path / "without")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert trained.data["new"]["queries"] == 8 and without.result["dev"] == trained.result["dev"]


def test_from_the_runs_start(plans, tmp_path):
    path, _ = plans
    run = ["stages.run=['full', 'interpolate']", "interpolate.between='start'", "interpolate.coefficients=[1]"]
    stages = train(path, tmp_path / "run", *run).result["stages"]
    assert [point["coefficient"] for point in stages[1]["curve"]] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("interpolate.between='head'", "[interpolate] between is 'head'. Choose augmented or start"),
        ("interpolate.coefficients=[0.5, 1.5]", "[interpolate] coefficients holds 1.5. Give 0 to 1"),
        ("interpolate.coefficients=[0]", "[interpolate] coefficients has no value above 0"),
        ("interpolate.tolerance=-1", "[interpolate] tolerance is -1"),
        ("augment.ema=1", "[augment] ema is 1.0. Give 0 or more, less than 1"),
        ("augment.replay=-1", "[augment] replay is -1"),
    ],
)
def test_settings_out_of_range(plans, setting, message):
    path, _ = plans
    with pytest.raises(UsageError) as caught:
        read_config(path, [setting])
    assert message in str(caught.value)
