"""Figures against closed forms, ir-measures, scikit-learn and the trainer's own metrics; laws on generated inputs."""

from __future__ import annotations

import math
import tracemalloc

import ir_measures
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from darl_opensearch.stats.auroc import Distances, auroc, auroc_interval
from darl_opensearch.stats.bootstrap import (
    Figure,
    bootstrap_mean,
    bootstrap_ratio,
    mean_over_queries,
    resample,
    share_of_pairs,
)
from darl_opensearch.stats.grades import (
    confusion,
    expected_calibration_error,
    kappa,
    macro_f1,
    off_by_two,
    quadratic_kappa,
    ranked_probability_score,
    share_equal,
)
from darl_opensearch.stats.paired import compare_paired
from darl_opensearch.stats.ranking import ndcg_per_query
from tests.helpers.judged import part_of
from trainer.evaluate.depth import rerank
from trainer.evaluate.grading import Grading
from trainer.evaluate.measured import Scale, measure, rank_judged
from trainer.evaluate.ranking import MOST_STEPS, rank_figures, to_whole_gains
from trainer.evaluate.systems import Ratings

laws = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
SCALE = Scale((0.0, 1.0, 3.0), (3, 10), 1)


def some_part(seed, *, k=3, queries=12, most=9):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most, queries)
    return part_of(rng.integers(0, k, sizes.sum()).tolist(), sizes=sizes), rng


# ---- ranking


def test_ranking_figures_by_hand():
    """Ranked: grades 0, 2, 1 with gains 0, 3, 1."""
    found = rank_figures(
        {"q": ["a", "b", "c"]}, {"q": {"a": 0, "b": 2, "c": 1}}, (0, 1, 3), cutoffs=(1, 2), relevant_from=1
    )
    best = 3 + 1 / math.log2(3)
    assert found["ndcg@1"] == {"q": 0.0}
    assert found["ndcg@2"] == {"q": pytest.approx(3 / math.log2(3) / best)}
    assert found["p@2"] == {"q": pytest.approx(1 / 2)} and found["p@1"] == {"q": 0.0}
    assert found["rr"] == {"q": pytest.approx(1 / 2)}
    assert found["ap"] == {"q": pytest.approx((1 / 2 + 2 / 3) / 2)}
    assert found["judged@2"] == {"q": 1.0}
    strict = rank_figures(
        {"q": ["a", "c", "b"]}, {"q": {"a": 0, "b": 2, "c": 1}}, (0, 1, 3), cutoffs=(2,), relevant_from=2
    )
    assert strict["rr"] == {"q": pytest.approx(1 / 3)} and strict["p@2"] == {"q": 0.0}


def test_unjudged_items_have_no_gain_and_are_counted():
    found = rank_figures({"q": ["x", "a"]}, {"q": {"a": 2, "b": 2}}, (0, 1, 3), cutoffs=(2,), relevant_from=1)
    assert found["judged@2"] == {"q": pytest.approx(1 / 2)}
    assert found["ndcg@2"] == {"q": pytest.approx(3 / math.log2(3) / (3 + 3 / math.log2(3)))}
    found = rank_figures({"q": ["x", "a"]}, {"q": {"a": 1, "b": 0}}, (0.5, 1.0), cutoffs=(2,), relevant_from=1)
    assert found["ndcg@2"] == {"q": pytest.approx(1 / math.log2(3) / (1 + 1 / 2 / math.log2(3)))}


def test_queries_without_a_relevant_item_have_no_ranking_figure():
    judged = {"none": {"a": 0, "b": 0}, "weak": {"a": 1, "b": 0}, "lost": {"a": 2}}
    ranked = {"none": ["a", "b"], "weak": ["a", "b"], "lost": []}
    found = rank_figures(ranked, judged, (0, 1, 3), cutoffs=(3,), relevant_from=2)
    assert set(found["ndcg@3"]) == {"weak", "lost"}
    assert found["ndcg@3"]["lost"] == found["ap"]["lost"] == 0.0  # nothing was retrieved for it
    assert set(found["ap"]) == set(found["rr"]) == set(found["p@3"]) == {"lost"}
    assert set(found["judged@3"]) == {"none", "weak"}


@pytest.mark.parametrize(
    ("gains", "whole"),
    [
        ((0, 1, 3), (0, 1, 3)),
        ((0.0, 0.1, 1.0), (0, 1, 10)),
        ((0, 0.5, 0.75), (0, 2, 3)),
        ((0, 2, 4), (0, 1, 2)),
        ((0.1, 0.2, 0.4), (1, 2, 4)),
        ((0, 1 / 3, 1), (0, round(MOST_STEPS / 3), MOST_STEPS)),
    ],
)
def test_gains_become_whole_in_the_same_proportions(gains, whole):
    assert to_whole_gains(gains) == whole


@pytest.mark.parametrize("gains", [(0, 1, 3), (0, 0.1, 1), (0, 0.25, 0.7), (0, 1 / 3, 1), (0, 0.9, 1.0)])
def test_ndcg_of_ir_measures_is_the_trainers_own(gains):
    part, rng = some_part(5)
    score = rng.permutation(len(part)).astype(float)
    own = ndcg_per_query(score, np.array(gains)[part.grades], part.query_index, cutoff=3)
    found = measure(part, Ratings(score), Scale(gains, (3,), 1)).by_query["ndcg@3"]
    assert {q: v for q, v in enumerate(found) if not math.isnan(v)} == pytest.approx(own, abs=1e-6)
    assert len(own) > 5


def test_ranking_figures_are_those_that_ir_measures_finds_in_the_run_file(tmp_path):
    """What is written can be measured again with the usual tool."""
    from trainer.evaluate.measured import map_grades
    from trainer.evaluate.trec import write_qrels, write_run

    part, rng = some_part(7)
    ratings = Ratings(rng.integers(0, 4, len(part)).astype(float))  # with ties
    write_run(tmp_path / "run", rank_judged(part, ratings), tag="x")
    write_qrels(tmp_path / "qrels", map_grades(part))
    wanted = {"ndcg@3": ir_measures.nDCG(gains={0: 0, 1: 1, 2: 3}) @ 3, "ap": ir_measures.AP, "rr": ir_measures.RR}
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "run")))
    figures = measure(part, ratings, SCALE).figures
    for name, measured in wanted.items():
        again = [m.value for m in measured.iter_calc(qrels, run)]
        dead = sum(not any(q.grades) for q in part.queries)  # ir-measures gives them 0
        assert figures[name].point == pytest.approx(sum(again) / (len(again) - dead))


@laws
@given(seed=st.integers(0, 9999), k=st.integers(2, 5))
def test_a_perfect_ranking_is_1_and_a_reversed_one_is_never_better(seed, k):
    part, rng = some_part(seed, k=k)
    scale = Scale(tuple(float(g) for g in range(k)), (1, 3, 10), 1)
    score = part.grades + rng.random(len(part)) / 2
    best, worst = (measure(part, Ratings(s), scale).by_query for s in (score, -score))
    some = measure(part, Ratings(rng.random(len(part))), scale).by_query
    for cutoff in scale.cutoffs:
        name = f"ndcg@{cutoff}"
        there = ~np.isnan(best[name])
        assert best[name][there] == pytest.approx(1.0)
        assert (worst[name][there] <= some[name][there] + 1e-9).all()
        assert (some[name][there] <= best[name][there] + 1e-9).all()


def test_equal_scores_keep_the_parts_own_order():
    part = part_of([0, 1, 2, 0], sizes=[3, 1])
    assert rank_judged(part, Ratings(np.zeros(4))) == {"q0": ["d0", "d1", "d2"], "q1": ["d3"]}
    assert rank_judged(part, Ratings(np.array([0, -np.inf, 1, 0]))) == {"q0": ["d2", "d0", "d1"], "q1": ["d3"]}


def test_a_slice_is_ranked_on_its_own():
    part = part_of([2, 0, 1, 0], slices=["a", "a", "b", "b"])
    score = np.array([0.0, 1.0, 3.0, 2.0])
    rows = np.array([0, 1])
    found = measure(part, Ratings(score), SCALE, rows=rows)
    assert (found.queries, found.pairs) == (1, 2)
    assert found.figures["rr"].point == pytest.approx(1 / 2)  # third of four in the whole list


# ---- depth


def test_reranking_to_a_depth():
    ids, score = ["a", "b", "c", "d"], np.array([0.1, 0.3, 0.3, 0.9])
    assert rerank(ids, score, 0) == ids
    assert rerank(ids, score, 1) == ids
    assert rerank(ids, score, 3) == ["b", "c", "a", "d"]  # equal scores keep the first stage's order
    assert rerank(ids, score, 4) == rerank(ids, score, 99) == ["d", "b", "c", "a"]
    assert rerank([], np.zeros(0), 5) == []


# ---- grades


def grading(seed, *, n=60, k=4, queries=9):
    rng = np.random.default_rng(seed)
    index = np.sort(rng.integers(0, queries, n))
    return Grading(rng.dirichlet(np.ones(k), n), rng.integers(0, k, n), index, queries)


@laws
@given(seed=st.integers(0, 9999), n=st.integers(1, 60), k=st.integers(2, 5))
def test_grade_figures_are_the_trainers_own_and_scikit_learns(seed, n, k):
    some = grading(seed, n=n, k=k)
    figures = {name: figure.point for name, figure in some.figures().items()}
    table = confusion(some.grades, some.predicted, k)
    assert figures["macro_f1"] == pytest.approx(float(macro_f1(table)))
    assert figures["macro_f1"] == pytest.approx(f1_score(some.grades, some.predicted, average="macro"))
    kappa = float(quadratic_kappa(table))
    assert figures["quadratic_kappa"] == pytest.approx(kappa, nan_ok=True)
    if not math.isnan(kappa):
        labels = list(range(k))
        expected = cohen_kappa_score(some.grades, some.predicted, weights="quadratic", labels=labels)
        assert figures["quadratic_kappa"] == pytest.approx(expected)
    assert figures["ece"] == pytest.approx(expected_calibration_error(some.grade_probs, some.grades))
    assert figures["rps"] == pytest.approx(ranked_probability_score(some.grade_probs, some.grades).mean())
    assert figures.get("off_by_two", 0.0) == pytest.approx(float(off_by_two(table)))
    assert ("off_by_two" in figures) == (k > 2)


def test_off_by_two_by_hand():
    assert off_by_two(confusion(np.array([2, 2, 2, 0]), np.array([0, 1, 2, 2]), 3)) == 2 / 4
    assert math.isnan(off_by_two(np.zeros((3, 3))))
    probs = np.eye(4)[[0, 1, 3, 2]]
    some = Grading(probs, np.array([2, 1, 0, 3]), np.zeros(4, dtype=np.int64), 1)
    assert some.figures()["off_by_two"].point == 2 / 4
    assert some.confusion().tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]


def test_reliability_by_hand():
    probs = np.array([[0.6, 0.4], [0.4, 0.6], [1.0, 0.0]])
    some = Grading(probs, np.array([0, 0, 0]), np.array([0, 1, 1]), 2)
    assert [one["pairs"] for one in some.reliability()] == [1, 1, 1]
    assert [one["accuracy"] for one in some.reliability()] == [1.0, 0.0, 1.0]
    assert some.figures()["ece"].point == pytest.approx((0.4 + 0.6 + 0.0) / 3)
    assert some.rps_by_query() == pytest.approx([0.4**2, (0.6**2 + 0) / 2])


def test_figures_of_many_tables_at_once_are_those_of_each():
    """Each table's grades spelt out again and measured by scikit-learn."""
    rng = np.random.default_rng(1)
    tables = rng.integers(0, 5, (20, 3, 3)).astype(float)
    tables[3] = 0.0
    oracles = {
        macro_f1: lambda given, predicted: f1_score(given, predicted, average="macro"),
        kappa: cohen_kappa_score,
        quadratic_kappa: lambda given, predicted: cohen_kappa_score(given, predicted, weights="quadratic"),
        share_equal: accuracy_score,
        off_by_two: lambda given, predicted: np.mean(np.abs(given - predicted) >= 2),
    }
    for figure, oracle in oracles.items():
        together = figure(tables)
        assert math.isnan(together[3]) and math.isnan(figure(tables[3]))
        for table, value in zip(np.delete(tables, 3, axis=0), np.delete(together, 3), strict=True):
            given, predicted = (np.repeat(side, table.ravel().astype(int)) for side in np.divmod(np.arange(9), 3))
            assert value == pytest.approx(oracle(given, predicted)) == pytest.approx(float(figure(table)))
            assert confusion(given, predicted, 3).tolist() == table.tolist()


# ---- resampling


def test_resampled_means_and_shares_are_the_bootstraps():
    rng = np.random.default_rng(0)
    values, index = rng.random(40), np.sort(rng.integers(0, 12, 40))
    index[:12] = np.arange(12)
    sums = np.stack([np.bincount(index, values, 12), np.bincount(index, minlength=12)], 1)
    one = resample({"m": mean_over_queries(values)}, draws=700, seed=3)["m"].interval()
    two = resample({"s": share_of_pairs(values, index, 12)}, draws=700, seed=3)["s"].interval()
    for found, expected in (
        (one, bootstrap_mean(values, draws=700, seed=3)), (two, bootstrap_ratio(*sums.T, draws=700, seed=3)),
    ):  # fmt: skip
        assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
        assert found.n == expected.n


def test_a_query_without_a_value_is_left_out():
    figure = mean_over_queries(np.array([1.0, np.nan, 0.0]))
    assert (figure.point, figure.n) == (1 / 2, 2)
    interval = resample({"m": figure}, draws=400, seed=0)["m"].interval()
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_one_query_has_no_interval():
    found = resample({"m": mean_over_queries(np.array([0.5]))}, draws=100, seed=0)["m"].interval()
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.high)
    nothing = resample({"m": mean_over_queries(np.zeros(0))}, draws=100, seed=0)["m"].interval()
    assert math.isnan(nothing.mean) and nothing.n == 0
    assert resample({}, draws=100, seed=0) == {}
    claim = compare_paired(np.array([0.5, np.nan]), np.array([0.25, np.nan]), draws=100)
    assert (claim.interval.mean, claim.interval.n, claim.p) == (1 / 4, 1, 1.0)
    assert math.isnan(claim.interval.low) and math.isnan(claim.interval.high)


def test_intervals_cover_what_is_not_a_mean():
    """Macro-F1 and kappa of 60 queries, against those of a million pairs."""
    rng = np.random.default_rng(2)
    table = np.array([[6, 2, 0], [2, 5, 2], [1, 2, 5]]) / 25
    truth = {"macro_f1": float(macro_f1(table)), "quadratic_kappa": float(quadratic_kappa(table * 1e6))}
    hits = dict.fromkeys(truth, 0)
    for _ in range(200):
        pairs = rng.choice(9, size=(60, 6), p=table.ravel())
        sums = np.stack([np.bincount(row, minlength=9).reshape(3, 3) for row in pairs]).astype(float)
        there = np.ones(60, dtype=bool)
        drawn = resample(
            {"macro_f1": Figure(sums, macro_f1, there), "quadratic_kappa": Figure(sums, quadratic_kappa, there)},
            draws=200, seed=1,
        )  # fmt: skip
        for name, value in truth.items():
            interval = drawn[name].interval()
            hits[name] += interval.low <= value <= interval.high
    assert all(0.88 <= hit / 200 <= 0.99 for hit in hits.values()), hits


def test_the_gap_of_two_parts():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.8, 0.1, 200), rng.normal(0.5, 0.1, 100)
    one, two = (
        resample({"m": mean_over_queries(v)}, draws=2000, seed=[0, n])["m"] for n, v in ((0, first), (1, second))
    )
    gap = one.minus(two).interval()
    assert gap.mean == pytest.approx(first.mean() - second.mean()) and gap.n == 100
    error = math.hypot(first.std() / math.sqrt(200), second.std() / math.sqrt(100))
    assert (gap.high - gap.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_sign_patterns_do_not_depend_on_how_many_are_made_at_a_time():
    rng = np.random.default_rng(3)
    for n in (1, 3, 7, 50):
        difference = rng.normal(size=n) + 0.02
        signs = np.random.default_rng([5, 1]).integers(0, 2, size=(2500, n), dtype=np.int8) * 2 - 1
        extreme = (np.abs(signs @ difference) >= abs(difference.sum()) * (1 - 1e-12)).sum()
        assert compare_paired(difference, np.zeros(n), draws=2500, seed=5).p == (extreme + 1) / 2501


def test_memory_does_not_grow_with_the_draws():
    values = np.random.default_rng(1).normal(size=2000)
    tracemalloc.start()
    bootstrap_mean(values, draws=4000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16 << 20  # all draws at once: 2000 * 4000 * 8 bytes, twice


# ---- OOD


def distances(values, index=None):
    index = np.arange(len(values)) if index is None else np.asarray(index)
    return Distances(np.asarray(values, dtype=float), index, int(index.max()) + 1)


SEEDS = ([0, 0], [0, 1])


def test_auroc_by_hand():
    assert auroc_interval(distances([0, 1]), distances([2, 3]), draws=50, seeds=SEEDS).mean == 1.0
    assert auroc_interval(distances([2, 3]), distances([0, 1]), draws=50, seeds=SEEDS).mean == 0.0
    assert auroc_interval(distances([1, 1]), distances([1, 1]), draws=50, seeds=SEEDS).mean == 1 / 2
    assert auroc_interval(distances([0, 2]), distances([1, 2]), draws=50, seeds=SEEDS).mean == (1 + 1 + 0.5) / 4
    assert math.isnan(auroc_interval(distances([0]), distances([1, 2]), draws=50, seeds=SEEDS).low)


@laws
@given(seed=st.integers(0, 9999))
def test_auroc_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    known, other = rng.integers(0, 6, 20), rng.integers(1, 8, 15)
    index = np.sort(rng.integers(0, 5, 20)), np.sort(rng.integers(0, 4, 15))
    found = auroc_interval(distances(known, index[0]), distances(other, index[1]), draws=100, seeds=SEEDS)
    assert found.mean == pytest.approx(roc_auc_score([0] * 20 + [1] * 15, [*known, *other]))
    assert 0 <= found.low <= found.high <= 1


def test_auroc_intervals_are_clustered():
    """Pairs that repeat within a query add no knowledge, so the interval must not shrink."""
    rng = np.random.default_rng(6)
    known, other = rng.normal(0, 1, 30), rng.normal(1, 1, 30)
    once = auroc_interval(distances(known), distances(other), draws=400, seeds=SEEDS)
    index = np.repeat(np.arange(30), 10)
    often = auroc_interval(
        distances(np.repeat(known, 10), index), distances(np.repeat(other, 10), index), draws=400, seeds=SEEDS
    )
    assert (often.mean, often.low, often.high) == pytest.approx((once.mean, once.low, once.high))


def test_auroc_of_many_resamples_at_once_is_that_of_each():
    rng = np.random.default_rng(8)
    known, other = rng.integers(0, 6, 20).astype(float), rng.integers(1, 8, 15).astype(float)
    weights = rng.integers(0, 3, (30, 20)).astype(float), rng.integers(0, 3, (30, 15)).astype(float)
    weights[0][4] = 0.0
    together = auroc(known, other, *weights)
    assert math.isnan(together[4]) and together.shape == (30,)
    for place in set(range(30)) - {4}:
        sides = (np.repeat(known, weights[0][place].astype(int)), np.repeat(other, weights[1][place].astype(int)))
        labels = np.repeat([0, 1], [len(side) for side in sides])
        assert together[place] == pytest.approx(roc_auc_score(labels, np.concatenate(sides)))
        assert together[place] == auroc(known, other, weights[0][place], weights[1][place])
