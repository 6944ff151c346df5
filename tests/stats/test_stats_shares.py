"""Shares: closed forms, laws, and an interval that covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.stats.shares import ClusterSums, share_of, share_test, student_t975

clusters = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=30)


@given(clusters=clusters)
def test_the_interval_holds_the_share_and_stays_within_0_and_1(clusters):
    hits, totals = [min(a, b) for a, b in clusters], [max(a, b) for a, b in clusters]
    share = share_of(hits, totals)
    if not sum(totals):
        assert (share.value, share.low, share.high) == (None, None, None)
        return
    assert share.value == sum(hits) / sum(totals)
    if share.clusters < 2:
        assert share.low is None and share.high is None
    else:
        assert 0 <= share.low <= share.value <= share.high <= 1


@given(clusters=clusters, seed=st.integers(0, 99))
def test_the_order_of_clusters_is_no_signal(clusters, seed):
    hits, totals = [min(a, b) for a, b in clusters], [max(a, b) for a, b in clusters]
    order = np.random.default_rng(seed).permutation(len(hits)).astype(int)
    one, two = share_of(hits, totals), share_of(np.array(hits)[order], np.array(totals)[order])
    assert one.value == two.value
    assert one.low is None or math.isclose(one.low, two.low, abs_tol=1e-12)


def test_without_any_hit_the_interval_is_that_of_the_queries_alone():
    """Wilson's upper bound at zero of n is t²/(n + t²)."""
    t = student_t975(19)
    share = share_of([0] * 20, [50] * 20)
    assert (share.value, share.low) == (0.0, 0.0)
    assert share.high == pytest.approx(t**2 / (20 + t**2))


def test_equal_clusters_of_one_give_wilson():
    """Each pair its own query: the ordinary binomial interval, but for n against n − 1."""
    n, hits = 400, 20
    share = share_of([1] * hits + [0] * (n - hits), [1] * n)
    t, effective = student_t975(n - 1), n - 1
    p = hits / n
    middle = (p + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t / (1 + t**2 / effective) * math.sqrt(p * (1 - p) / effective + t**2 / (4 * effective**2))
    assert (share.low, share.high) == pytest.approx((middle - half, middle + half))


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (30, 2.04227)])
def test_student(freedom, quantile):
    assert student_t975(freedom) == pytest.approx(quantile, rel=2e-3)


@pytest.mark.parametrize(("share", "queries"), [(0.05, 40), (0.05, 200), (0.3, 30)])
def test_the_interval_covers_when_pairs_of_a_query_go_together(share, queries):
    """Beta-binomial queries of 20 pairs, intraclass correlation .2: at least 90 % of nominal 95 % intervals."""
    rng = np.random.default_rng(1)
    a, b = share * 4, (1 - share) * 4
    covered = 0
    for _ in range(1000):
        hits = rng.binomial(20, rng.beta(a, b, queries))
        interval = share_of(hits, np.full(queries, 20))
        covered += interval.low <= share <= interval.high
    assert covered / 1000 >= 0.9


@given(clusters=clusters, alpha=st.floats(0.01, 0.5))
def test_sums_over_clusters_say_what_the_clusters_say(clusters, alpha):
    hits = np.array([min(a, b) for a, b in clusters], dtype=float)
    totals = np.array([max(a, b) for a, b in clusters], dtype=float)
    sums = ClusterSums(
        int((totals > 0).sum()), hits.sum(), totals.sum(), hits @ hits, hits @ totals, totals @ totals
    )  # fmt: skip
    one, two = share_of(hits, totals), sums.share()
    assert (one.value, one.clusters, one.total) == (two.value, two.clusters, two.total)
    assert (one.low is None) == (two.low is None)
    assert [two.low, two.high] == pytest.approx([one.low, one.high], abs=1e-6)
    assert sums.test(alpha) == pytest.approx(share_test(hits, totals, alpha), abs=1e-6)
