"""The tests behind drift: oracles, laws, false alarms at or under the level, and power."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from darl_opensearch.monitor.drift import two_sample
from darl_opensearch.monitor.drift.two_sample import (
    Clusters,
    cross_fit_smoother,
    mean_kernel,
    permute,
    pooled_auc,
    squared_mmd,
    two_sample_tests,
)
from darl_opensearch.stats.shares import share_test

ONES = np.ones(6, dtype=np.int64)


def clusters(rng, queries, *, width=8, shift=0.0, most=4):
    """Queries of 1 to ``most`` pairs that have much in common."""
    sizes = rng.integers(1, most + 1, queries)
    centre = rng.standard_normal((queries, width))
    centre[:, 0] += shift
    rows = np.repeat(centre, sizes, axis=0) + 0.4 * rng.standard_normal((sizes.sum(), width))
    return Clusters(rows.astype(np.float32), sizes)


def test_mmd_is_the_textbooks_sum():
    rng = np.random.default_rng(0)
    rows, sizes = rng.standard_normal((9, 3)).astype(np.float32), np.array([1, 2, 1, 3, 1, 1])
    labels = np.array([0, 0, 1, 1, 0, 1], dtype=np.float32)
    distances = [((a - b) ** 2).sum() for a, b in itertools.combinations(rows, 2)]
    pairs = rbf_kernel(rows, gamma=1 / (2 * np.median(distances)))
    groups = np.split(np.arange(9), np.cumsum(sizes)[:-1])
    k = np.array([[pairs[np.ix_(a, b)].mean() for b in groups] for a in groups])
    x, y = np.flatnonzero(labels == 0), np.flatnonzero(labels)
    expected = (
        sum(k[i, j] for i in x for j in x if i != j) / 6
        + sum(k[i, j] for i in y for j in y if i != j) / 6
        - 2 * sum(k[i, j] for i in x for j in y) / 9
    )
    assert squared_mmd(mean_kernel(rows, sizes), labels[None])[0] == pytest.approx(expected, abs=1e-6)


def test_mmd_of_two_points_a_side():
    """Each sample two equal points, the samples at distance d: 2 - 2 exp(-1/2) with the median d."""
    rows = np.array([[0.0], [0.0], [1.0], [1.0]], dtype=np.float32)
    value = squared_mmd(mean_kernel(rows, ONES[:4]), np.array([[0, 0, 1, 1]], dtype=np.float32))[0]
    assert value == pytest.approx(2 - 2 * math.exp(-1 / 2), rel=1e-5)


def test_the_median_is_unbiased_over_all_permutations():
    """The mean of the estimate over every way to label six points is the same as without any difference: 0."""
    rng = np.random.default_rng(1)
    kernel = mean_kernel(rng.standard_normal((6, 2)).astype(np.float32), ONES)
    every = np.zeros((20, 6), dtype=np.float32)
    for row, chosen in enumerate(itertools.combinations(range(6), 3)):
        every[row, list(chosen)] = 1
    assert squared_mmd(kernel, every).mean() == pytest.approx(0, abs=1e-7)


def test_held_out_scores_are_those_of_ridge_regression():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((40, 60)).astype(np.float32)  # more features than queries
    labels, folded = rng.integers(0, 2, 40).astype(np.float32), np.arange(40) % 4
    scores = cross_fit_smoother(rows, folded) @ labels
    for fold in range(4):
        train, test = folded != fold, folded == fold
        centred = rows[train] - rows[train].mean(0)
        penalty = two_sample.RIDGE * (centred**2).sum() / train.sum()
        said = Ridge(alpha=penalty).fit(rows[train], labels[train]).predict(rows[test])
        assert np.allclose(said - said.mean(), scores[test] - scores[test].mean(), atol=1e-4)


@given(seed=st.integers(0, 2**16), count=st.integers(4, 30))
@settings(max_examples=30, deadline=None)
def test_one_folds_auc_is_that_of_the_library(seed, count):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, count), rng.standard_normal(count).astype(np.float32)
    value = pooled_auc(scores[None], labels[None].astype(np.float32), np.zeros(count, np.int64))[0]
    assert value == (pytest.approx(roc_auc_score(labels, scores)) if 0 < labels.sum() < count else 0.5)


def test_auc_compares_within_folds_only():
    """Of the four comparisons across folds, which are all lost, none counts; inside two of two are won."""
    scores = np.array([[5.0, 6.0, 1.0, 2.0]], dtype=np.float32)
    labels = np.array([[0, 1, 0, 1]], dtype=np.float32)
    assert pooled_auc(scores, labels, np.array([0, 0, 1, 1]))[0] == 1.0


def test_a_permutation_p_value_is_the_share_of_all_labellings():
    """Ten against ten, separated: 1/(B+1) at least; its statistic is beaten by none of 999 draws."""
    labels = np.repeat([0.0, 1.0], 10).astype(np.float32)
    place = np.arange(20.0)
    said = permute({"sum": lambda drawn: drawn @ place}, labels, 999, np.random.default_rng(0))["sum"]
    assert (said.value, said.p, said.permutations) == (145.0, 1 / 1000, 999)


def test_drawing_ends_early_where_there_is_nothing():
    labels = np.repeat([0.0, 1.0], 10).astype(np.float32)
    said = permute({"none": lambda drawn: np.zeros(len(drawn))}, labels, 9999, np.random.default_rng(0))["none"]
    assert (said.p, said.permutations) == (1.0, two_sample.ENOUGH)


def test_sequential_p_values_are_uniform():
    """p <= 1/20 in 1/20 of all data without a difference: the mean of 400 is within 3.5 standard errors."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0.0, 1.0], 15).astype(np.float32)
    hits = 0
    for _ in range(400):
        rows = rng.standard_normal(30)
        hits += permute({"x": lambda drawn, rows=rows: drawn @ rows}, labels, 199, rng)["x"].p <= 0.05
    assert abs(hits - 20) <= 3.5 * math.sqrt(19)


def test_equal_features_are_never_drift():
    same = Clusters(np.ones((40, 4), dtype=np.float32), np.ones(40, dtype=np.int64))
    said = two_sample_tests(same, same, permutations=199, folds=5, seed=[0])
    assert said["mmd"].p == 1.0 and said["auc"].p > 0.01


@pytest.mark.parametrize(("reference", "window"), [(40, 40), (30, 120)])
def test_false_alarms_stay_at_the_level_for_exchangeable_queries(reference, window):
    """200 draws without a difference at level .1: no more than 34 alarms (3.4 standard errors)."""
    rng = np.random.default_rng(4)
    p = {"mmd": [], "auc": []}
    for run in range(200):
        said = two_sample_tests(clusters(rng, reference), clusters(rng, window), permutations=99, folds=4, seed=[run])
        for name in p:
            p[name].append(said[name].p)
    for name, values in p.items():
        assert 5 <= sum(value <= 0.1 for value in values) <= 34, name


def test_pairs_permuted_apart_from_their_query_alarm_far_too_often():
    """Why queries are permuted whole: taken as 4 independent pairs each, the same data alarm."""
    rng = np.random.default_rng(5)
    hits = {"whole": 0, "apart": 0}
    for run in range(60):
        samples = [clusters(rng, 30, most=8) for _ in range(2)]
        apart = [Clusters(s.features, np.ones(len(s.features), dtype=np.int64)) for s in samples]
        for name, (one, other) in (("whole", samples), ("apart", apart)):
            hits[name] += two_sample_tests(one, other, permutations=99, folds=4, seed=[run])["mmd"].p <= 0.05
    assert hits["whole"] <= 9 and hits["apart"] >= 30


@pytest.mark.parametrize("name", ["mmd", "auc"])
def test_a_shift_is_found(name):
    rng = np.random.default_rng(6)
    found = 0
    for run in range(10):
        one, other = clusters(rng, 80), clusters(rng, 80, shift=1.0)
        found += two_sample_tests(one, other, permutations=199, folds=5, seed=[run])[name].p <= 0.01
    assert found >= 9


def test_seeds_repeat():
    rng = np.random.default_rng(7)
    one, other = clusters(rng, 40), clusters(rng, 40)
    first, again, another = (two_sample_tests(one, other, permutations=99, folds=4, seed=[seed]) for seed in (1, 1, 2))
    assert first == again and first != another


def test_the_order_of_the_samples_pairs_is_no_signal():
    """Value of MMD: of rows and queries alone."""
    rng = np.random.default_rng(8)
    one, other = clusters(rng, 30, most=1), clusters(rng, 30, most=1)
    turned = Clusters(one.features[::-1].copy(), one.sizes)
    values = [two_sample_tests(c, other, permutations=99, folds=4, seed=[1])["mmd"].value for c in (one, turned)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_one_pair_a_query_gives_the_binomial_score_test():
    """z with the variance around alpha: 30 of 400 at .05."""
    hits = np.repeat([1, 0], [30, 370])
    z = (30 - 20) / math.sqrt(30 * 0.95**2 + 370 * 0.05**2)
    assert share_test(hits, np.ones(400), 0.05) == pytest.approx(norm.sf(z))
    assert share_test(hits, np.ones(400), 0.05, calibration_queries=100) == pytest.approx(norm.sf(z / math.sqrt(5)))


def test_few_queries_never_say_0():
    """All pairs of q queries OOD: z is the root of q, whatever the number of pairs."""
    assert share_test([50, 50], [50, 50], 0.05) == pytest.approx(norm.sf(math.sqrt(2)))
    assert share_test([], [], 0.05) == share_test([0], [0], 0.05) == 1.0
    assert share_test([0] * 9, [50] * 9, 0.05) > 0.99


def flagged(rng, queries, pairs, threshold=None, *, together=0.4, push=0.0, alpha=0.05):
    """OOD pairs of queries whose distances go together; the threshold is conformal of this traffic if not given."""
    distances = math.sqrt(together) * rng.standard_normal((queries, 1)) + push
    distances = distances + math.sqrt(1 - together) * rng.standard_normal((queries, pairs))
    if threshold is None:
        return np.sort(distances.ravel())[::-1][int(alpha * (queries * pairs + 1)) - 1]
    return (distances > threshold).sum(axis=1)


@pytest.mark.parametrize(("calibration", "queries"), [(100, 100), (100, 2000), (400, 40)])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_false_alarms_of_the_share_stay_at_the_level(calibration, queries, level):
    """1000 calibrations, each with a window of the same traffic: level + 3 standard errors at most."""
    rng = np.random.default_rng(9)
    p = []
    for _ in range(1000):
        threshold = flagged(rng, calibration, 20)
        hits = flagged(rng, queries, 20, threshold)
        p.append(share_test(hits, np.full(queries, 20), 0.05, calibration_queries=calibration))
    assert np.mean(np.array(p) <= level) <= level + 3 * math.sqrt(level * (1 - level) / 1000)


def test_what_the_calibrations_own_noise_would_do():
    """Why it is in the variance: with alpha taken as exact, a large window of the same traffic alarms by chance."""
    rng = np.random.default_rng(10)
    p = []
    for _ in range(200):
        hits = flagged(rng, 2000, 20, flagged(rng, 100, 20))
        p.append(share_test(hits, np.full(2000, 20), 0.05))
    assert np.mean(np.array(p) <= 0.01) > 0.15


def test_a_threshold_is_known_only_as_well_as_its_queries_let_it():
    """What docs/monitoring.md says of 100 queries with 20 pairs: 9 of 10 thresholds for .05 let .036 to .068 pass."""
    rng = np.random.default_rng(12)
    rates = [norm.sf(flagged(rng, 100, 20)) for _ in range(2000)]
    assert np.quantile(rates, [0.05, 0.95]) == pytest.approx([0.036, 0.068], abs=0.002)


def test_a_higher_share_is_found():
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(50):
        hits = flagged(rng, 300, 20, flagged(rng, 300, 20), push=0.5)
        found += share_test(hits, np.full(300, 20), 0.05, calibration_queries=300) <= 0.01
    assert found >= 45
