"""The label benchmark's own parts; what it finds is for its page."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.cycle import curves, labels, noise, pool, report
from benchmarks.cycle.areas import adjusted, curve, labels_needed, resampled, state_claim, weights_of_area
from benchmarks.cycle.curves import Arm, Table
from benchmarks.cycle.shifts import AGAIN, GIBBERISH, PROBE, Shift, World, hidden
from benchmarks.quality.data import Judged, lay_out
from darl_opensearch.stats.bootstrap import Resampled, ratio

SHIFT = Shift("made", ("made",), (), (), (3, 3))


@pytest.fixture(scope="module")
def made() -> World:
    """80 known queries whose first feature tells the grade, 60 others where the second does, and noise."""
    rng = np.random.default_rng(0)
    kinds = np.array([""] * 140 + [GIBBERISH] * 8 + [PROBE] * 8 + [AGAIN] * 8)
    n, per = len(kinds), 3
    origin = np.where(kinds == AGAIN, np.arange(n) - 80, -1)
    grades = np.where((kinds == "")[:, None], rng.integers(0, 4, size=(n, per)), 0)
    grades[kinds == AGAIN] = grades[origin[kinds == AGAIN]]
    judged = [[(f"{q}-{i}", int(g)) for i, g in enumerate(row)] for q, row in enumerate(grades)]
    names = [" ".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(n)]
    pairs = lay_out(names, judged, {f"{q}-{i}": "" for q in range(n) for i in range(per)})
    inside = np.arange(n) < 80
    truth = pairs.grades.numpy()
    first = np.repeat(inside, per)
    columns = np.stack([np.where(first, truth, 0), np.where(first, 0, truth)], 1) + rng.normal(size=(n * per, 2)) / 3
    domain = np.where(inside, "known", np.where(kinds == "", "new", kinds))
    centre = np.where(inside[:, None], [1.0, 0, 0, 0], [0, 1.0, 0, 0])

    def embeddings(middle: np.ndarray) -> np.ndarray:
        rows = middle + 0.2 * rng.normal(size=middle.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    similarity = torch.tensor(columns, dtype=torch.float32)
    return World(
        Judged(pairs, similarity, torch.zeros(n * per, 1), domain), embeddings(centre),
        embeddings(np.repeat(centre, per, axis=0)), inside, hidden(SHIFT, domain, inside, kinds), kinds, origin,
    )  # fmt: skip


def test_noise_is_seeded_distinct_and_never_the_query_itself():
    for make in (noise.gibberish, noise.probes):
        assert make(40, seed=1) == make(40, seed=1) != make(40, seed=2)
        assert len(set(make(40, seed=1))) == 40
    queries = ["red shoes for running", "tv", "a b"]
    assert all(again != query for again, query in zip(noise.near_duplicates(queries, seed=0), queries, strict=True))


def test_no_query_is_in_two_parts_and_a_near_duplicate_repeats_what_is_in_the_pool(made):
    parts = pool.draw(made, seed=3)
    named = [parts.train, parts.dev, parts.id_test, parts.ood_test, parts.pool]
    together = np.concatenate(named)
    assert len(np.unique(together)) == len(together)
    assert made.outside[parts.ood].all() and made.outside[parts.ood_test].all()
    assert not set(made.origin[parts.pool]) & (set(parts.ood_test) | set(parts.train) | set(parts.id_test))
    assert np.array_equal(parts.pool, pool.draw(made, seed=3).pool)


def test_hidden_labels_are_those_of_the_named_domains():
    domain, inside = np.array(["a", "b", "c", PROBE]), np.array([True, False, False, False])
    kinds = np.array(["", "", "", PROBE])
    assert hidden(SHIFT, domain, inside, kinds).tolist() == [False, True, True, False]
    only = Shift("made", ("made",), (), ("c",), (3, 3))
    assert hidden(only, domain, inside, kinds).tolist() == [False, False, True, False]


def test_items_of_a_query_are_spread_over_the_models_order(made):
    score = np.arange(len(made.judged.pairs.grades), dtype=float)
    rows = pool.units(made, np.array([4, 7]), score, items=2)
    assert [r.tolist() for r in rows] == [[12, 14], [21, 23]]  # the lowest and the highest of three


def test_trace_finds_the_gap_and_a_selector_that_avoids_noise(made):
    arms = {labels.RANDOM: Arm("random_flagged"), labels.OURS: Arm("herding"), "contrast": Arm("contrast")}
    found = curves.trace(made, SHIFT, arms, [0, 1], lambda what: None)
    assert found.grid[0] == 0 and found.grid[-1] <= found.every / 2
    for name in arms:
        ndcg = curve(found.tables[name]["OOD"]["ndcg"])
        assert len(ndcg) == len(found.grid) + 1
        assert ndcg[-1] > ndcg[0] + 0.05  # the second feature is nothing to a model that saw no label of it
        assert ndcg[-2] > ndcg[0] + 0.02
    said = labels.summarise(found, labels.RANDOM)
    json.dumps(said)
    assert set(said["minus_random"]) == {labels.OURS, "contrast"}
    told = {"grid": [0, 50, 100], "curves": {"a": {"OOD": {"ndcg": [0.0, 0.5, 0.7, 1.0]}}}}
    assert labels.needed(told) == {"0.5": {"a": 50.0}, "0.75": {"a": None}, "0.95": {"a": None}}
    assert said["ood_change"]["contrast"]["mean"] > 0.02
    gap = {m: {"gap": {"low": low}} for m, low in (("ndcg", 0.1), ("kappa", -0.1), ("cut_kappa", 0.1))}
    claims = labels.families({"made": {"OOD": gap}}, {"made": said})
    assert claims["ndcg"][f"{labels.OURS} - {labels.RANDOM}"]["made"]["p_holm"] <= 1
    assert not any(claims["kappa"].values())  # without a gap there is nothing to claim


def test_area_is_the_trapezoids():
    assert weights_of_area((0, 50, 100, 300)) == pytest.approx([25 / 300, 50 / 300, 125 / 300, 100 / 300])
    assert weights_of_area((0, 1)) @ np.array([2.0, 4.0]) == pytest.approx(3.0)


def test_resampling_covers_queries_and_seeds():
    rng = np.random.default_rng(0)
    values = 0.5 + 0.1 * rng.normal(size=(8, 1, 60)) + 0.2 * rng.normal(size=(8, 1, 1))
    table = Table(np.stack([values, np.ones_like(values)], axis=-1).astype(np.float32), ratio)
    found = resampled(table, np.ones(1), draws=600)
    assert found.point == pytest.approx(values.mean(), abs=1e-6)
    by_seed = values.mean(2).std() / 8**0.5
    assert found.draws.std() == pytest.approx(by_seed, rel=0.25)  # the seeds differ more than the queries
    nothing = state_claim(found.minus(found))
    assert (nothing["mean"], nothing["low"], nothing["p"]) == (0.0, 0.0, 1.0)
    sure = state_claim(Resampled(0.1, np.full(99, 0.1), 9))
    assert sure["p"] == pytest.approx(2 / 100)


def test_a_query_that_a_seed_did_not_test_counts_nothing():
    sums = np.array([[[[1.0, 1.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.5, 1.0]]]], dtype=np.float32)
    assert resampled(Table(sums, ratio), np.ones(1), draws=10).point == pytest.approx((1 + 0.5) / 2)


def test_labels_needed_lie_between_the_points():
    assert labels_needed([0, 50, 100], [0.0, 0.1, 0.3], 0.2) == pytest.approx(75)
    assert labels_needed([0, 50], [0.2, 0.1], 0.2) == 0
    assert labels_needed([0, 50], [0.0, 0.1], 0.2) is None


def test_claims_of_a_family_are_adjusted_together():
    assert adjusted({"a": {"p": 0.01}, "b": {"p": 0.04}})["a"] == {"p": 0.01, "p_holm": 0.02}


def test_budgets_end_at_half_of_what_there_is():
    assert curves.budgets(430.5) == (0, 50, 100, 200, 215)
    assert curves.budgets(10_000) == (0, 50, 100, 200, 400, 800)
    assert curves.budgets(41) == (0, 20)


def test_the_page_shows_the_committed_result():
    assert report.is_fresh(), "run: python -m benchmarks.cycle.report"
    result = json.loads(report.RESULT.read_text(encoding="utf-8"))
    for name, found in result["gaps"].items():
        assert (name in result["curves"]) is any(labels.has_gap(found, measure) for measure in labels.CLAIMED)
