"""The simulation of looks: its versions, its arms, and that the gate's own functions decide."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.cycle import looks
from benchmarks.cycle.halves import ALL, HALF, UNTRAINED, keep
from benchmarks.cycle.looks import GRADES, LEFT, NONE, ORDER, Cycle, halve_log_odds, measure_version, read_cycles
from benchmarks.cycle.report_gate import render_looks
from trainer.evaluate.settings import GateOptions

QUERIES, ITEMS = 40, 5


def predictions(rng, grades, skill):
    """Predictions that know the grades a little."""
    latent = skill * grades + rng.normal(size=len(grades))
    at_most = 1 / (1 + np.exp(np.array([[0.5, 1.5]]) - latent[:, None])[:, ::-1])[:, ::-1]
    at_most = np.sort(1 - at_most, axis=1)
    probs = np.diff(np.concatenate([np.zeros((len(grades), 1)), at_most, np.ones((len(grades), 1))], 1), axis=1)
    return latent, probs


@pytest.fixture
def kept(tmp_path):
    """Predictions of a set with two splits, better with more labels."""
    rng = np.random.default_rng(0)
    for split in (0, 1):
        grades, query = rng.integers(0, 3, size=QUERIES * ITEMS), np.repeat(np.arange(QUERIES), ITEMS)
        arrays = {"grades": grades, "query": query}
        for version, skill in ((UNTRAINED, 0.2), (HALF, 1.0), (ALL, 1.1)):
            arrays[f"{version}_latent"], arrays[f"{version}_probs"] = predictions(rng, grades, skill)
        keep(tmp_path / f"made-{split}.npz", arrays)
    return tmp_path


def test_halved_log_odds_keep_the_order_and_are_less_certain():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=50)
    halved = halve_log_odds(probs)
    assert halved.sum(1) == pytest.approx(1) and (halved > 0).all()
    first, again = (p[:, 0] / (1 - p[:, 0]) for p in (probs, halved))
    assert again**2 == pytest.approx(first)


def test_cycles_are_what_they_are_called(kept):
    cycles = read_cycles(sorted(kept.glob("*.npz")))
    assert len(cycles[looks.FIRST].old[ORDER]) == 2 * QUERIES
    assert np.nanmean(cycles[looks.FIRST].change(ORDER)) > 0.05 < np.nanmean(cycles[looks.FIRST].change(LEFT)) + 0.05
    assert np.nanmean(cycles[looks.LOSS].change(ORDER)) == pytest.approx(-0.01)
    assert cycles[looks.CALIBRATION].change(ORDER) == pytest.approx(0, nan_ok=True)
    assert cycles[looks.CALIBRATION].change(LEFT) == pytest.approx(0, abs=1e-4)
    assert abs(cycles[looks.CALIBRATION].change(GRADES).mean()) > 0.001


def test_the_gate_decides_look_by_look(kept, tmp_path, monkeypatch, capsys):
    for name, value in (("LOOKS", (1, 4)), ("GAIN", 0.05), ("OPTIONS", GateOptions(draws=500, tolerance=0.06))):
        monkeypatch.setattr(looks, name, value)
    out = tmp_path / "looks.json"
    assert looks.main(["--work", str(kept), "--out", str(out), "--share", "0.05"]) == 0
    result = json.loads(out.read_text())
    found = result["sets"]["made"]["cycles"]
    one, four = found[looks.FIRST]["rows"]
    assert one["judged"] == one["planned"] < four["planned"] and one["yes"] > 0.5
    assert four["judged"] < four["planned"] and found[looks.CALIBRATION]["rows"][1]["yes"] == 0.0
    assert found[NONE]["changes"][ORDER]["mean"] == 0.0
    text = render_looks(result)
    assert f"### made, {2 * QUERIES} test queries" in text and f"{100 * one['yes']:.1f} %" in text
    with pytest.raises(SystemExit):
        looks.main(["--work", str(tmp_path / "nothing")])
    assert "run python -m benchmarks.cycle.halves" in capsys.readouterr().err


def test_versions_that_change_places_at_random_gain_nothing(kept):
    cycle = read_cycles(sorted(kept.glob("*.npz")))[looks.FIRST]
    rng = np.random.default_rng(0)
    means = []
    for _ in range(300):
        swapped = rng.random(len(cycle.old[GRADES])) < 0.5
        means.append(np.where(swapped, -1, 1) @ cycle.change(GRADES) / len(swapped))
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(300)
    same = Cycle(cycle.old, cycle.old)
    answered = [looks.run_gate(same, np.arange(40), np.zeros(40, dtype=bool), count) for count in (1, 4)]
    assert answered == [(False, 40), (False, 10)]


def test_figures_are_by_query():
    grades, query = np.array([0, 2, 1, 1]), np.array([0, 0, 1, 1])
    probs = np.eye(3)[grades]
    found = measure_version(probs, grades.astype(float), grades, query)
    assert found[GRADES] == pytest.approx([0, 0]) and found[ORDER][0] == 1.0
