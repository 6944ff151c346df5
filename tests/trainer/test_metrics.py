"""Metrics against ir-measures, scikit-learn and closed forms; intervals that cover."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score

from darl_opensearch.stats.bootstrap import bootstrap_mean, bootstrap_ratio
from darl_opensearch.stats.grades import confusion, expected_calibration_error, macro_f1, quadratic_kappa
from darl_opensearch.stats.ranking import ndcg_per_query
from tests.helpers.training_project import laws

graded = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@pytest.mark.parametrize("cutoff", [1, 3, 10, 100])
@pytest.mark.parametrize("gains", [(0, 1, 2), (0, 1, 3), (0, 3, 7)])
def test_ndcg_against_ir_measures(cutoff, gains):
    rng = np.random.default_rng(cutoff)
    query = rng.integers(0, 12, 200)
    grades = rng.integers(0, 3, 200)
    grades[query == 3] = 0
    score = rng.permutation(200).astype(float)
    names = [f"d{i}" for i in range(200)]
    measure = ir_measures.nDCG(gains=dict(enumerate(gains))) @ cutoff
    qrels = [ir_measures.Qrel(str(q), d, int(g)) for q, d, g in zip(query, names, grades, strict=True)]
    run = [ir_measures.ScoredDoc(str(q), d, s) for q, d, s in zip(query, names, score, strict=True)]
    expected = {int(m.query_id): m.value for m in measure.iter_calc(qrels, run)}
    found = ndcg_per_query(score, np.asarray(gains)[grades], query, cutoff=cutoff)
    assert 3 in expected and 3 not in found  # without any gain there is no ideal order
    assert set(found) == set(query.tolist()) - {3}
    for q, value in found.items():
        assert value == pytest.approx(expected[q])


def test_ndcg_closed_forms():
    gains, query = np.array([0.0, 1.0, 3.0]), np.zeros(3, dtype=np.int64)
    assert ndcg_per_query(np.array([1.0, 2.0, 3.0]), gains, query) == {0: pytest.approx(1.0)}
    worst = (1 / math.log2(3) + 3 / 2) / (3 + 1 / math.log2(3))
    assert ndcg_per_query(np.array([3.0, 2.0, 1.0]), gains, query) == {0: pytest.approx(worst)}
    assert ndcg_per_query(np.zeros(3), gains, query) == {0: pytest.approx(worst)}  # ties keep the order given
    assert ndcg_per_query(np.array([3.0, 2.0, 1.0]), gains, query, cutoff=1) == {0: 0.0}


@laws
@given(pairs=graded)
def test_grading_metrics_against_scikit_learn(pairs):
    predicted, grades = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    table = confusion(grades, predicted, 4)
    assert macro_f1(table) == pytest.approx(f1_score(grades, predicted, average="macro"))
    found = quadratic_kappa(table)
    if math.isnan(found):
        assert len(set(predicted) | set(grades)) == 1
        return
    expected = cohen_kappa_score(grades, predicted, weights="quadratic", labels=[0, 1, 2, 3])
    assert found == pytest.approx(expected)


def test_grading_closed_forms():
    assert macro_f1(confusion(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), 2)) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert quadratic_kappa(confusion(np.array([0, 1, 2]), np.array([0, 1, 2]), 3)) == 1.0
    assert quadratic_kappa(confusion(np.array([0, 2, 0, 2]), np.array([0, 0, 2, 2]), 3)) == pytest.approx(0.0)
    assert quadratic_kappa(confusion(np.array([2, 0]), np.array([0, 2]), 3)) == pytest.approx(-1.0)
    assert math.isnan(macro_f1(np.zeros((3, 3))))


def test_calibration_error_closed_forms():
    sure = np.tile([0.9, 0.1], (10, 1))
    assert expected_calibration_error(sure, np.array([0] * 9 + [1]), bins=1) == pytest.approx(0.0)
    assert expected_calibration_error(sure, np.zeros(10, dtype=int), bins=1) == pytest.approx(1 / 10)
    assert expected_calibration_error(sure, np.ones(10, dtype=int), bins=1) == pytest.approx(9 / 10)
    # two bins of two: confidences 3/5 and 1, accuracies 1/2 and 1
    probs = np.array([[0.6, 0.4], [0.4, 0.6], [1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(probs, np.array([0, 0, 0, 1]), bins=2) == pytest.approx((1 / 10 + 0) / 2)
    assert math.isnan(expected_calibration_error(np.zeros((0, 3)), np.zeros(0, dtype=int)))


@laws
@given(n=st.integers(1, 40), seed=st.integers(0, 999))
def test_calibration_error_is_a_share_and_blind_to_order(n, seed):
    rng = np.random.default_rng(seed)
    probs, grades = rng.dirichlet(np.ones(3), n), rng.integers(0, 3, n)
    value = expected_calibration_error(probs, grades)
    assert 0 <= value <= 1
    order = rng.permutation(n)
    assert expected_calibration_error(probs[order], grades[order]) == pytest.approx(value)


# ---- intervals


@laws
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_interval_of_a_mean(values, seed):
    data = np.array(values)
    interval = bootstrap_mean(data, draws=200, seed=seed)
    assert interval.mean == pytest.approx(data.mean()) and interval.n == len(values)
    assert data.min() - 1e-9 <= interval.low <= interval.high <= data.max() + 1e-9
    assert bootstrap_mean(data, draws=200, seed=seed) == interval


def test_interval_of_equal_values_is_a_point():
    interval = bootstrap_mean(np.full(7, 5 / 9))
    assert (interval.low, interval.high) == (pytest.approx(5 / 9), pytest.approx(5 / 9))


def test_interval_of_nothing():
    assert math.isnan(bootstrap_mean(np.zeros(0)).mean)
    assert math.isnan(bootstrap_ratio(np.zeros(3), np.zeros(3)).low)


def test_coverage_of_a_mean():
    """95 % intervals hold the truth about as often as they say."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        interval = bootstrap_mean(rng.normal(0.5, 1.0, 40), draws=300, seed=1)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.89 <= hits / 300 <= 0.98


def test_clustered_coverage_where_pairs_of_a_query_go_together():
    """Queries are flagged as a whole: an interval over pairs would be far too narrow."""
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        sizes = rng.integers(5, 20, 60).astype(float)
        flagged = sizes * (rng.random(60) < 0.2)
        interval = bootstrap_ratio(flagged, sizes, draws=300, seed=1)
        hits += interval.low <= 0.2 <= interval.high
    assert 0.88 <= hits / 300 <= 0.98
