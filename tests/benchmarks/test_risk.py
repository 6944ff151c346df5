"""The risk–coverage curve and the comparison of flagged pairs, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ood.risk import area, compare_flagged, expected_rps, mix, ranks, summarise


def test_the_area_by_hand():
    errors, weight = np.array([0.0, 1.0, 0.5]), np.ones((1, 3))
    assert area(np.array([1.0, 2.0, 3.0]), errors, weight) == pytest.approx([(0 + 1 / 2 + 1.5 / 3) / 3])
    assert area(np.array([1.0, 3.0, 2.0]), errors, weight) == pytest.approx([(0 + 0.5 / 2 + 1.5 / 3) / 3])
    twice = np.array([[2.0, 0.0, 1.0]])  # a query that a resample drew twice, and one that it left out
    assert area(np.array([1.0, 2.0, 3.0]), errors, twice) == pytest.approx([(2 * 0 + 1 * 0.5 / 3) / 3])


def test_known_and_strange_pairs_weigh_the_same():
    of = np.array([0, 0, 1, 2])
    rows, weight = mix(np.array([0, 1, 2]), np.array([3]), of, np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]))
    assert rows.tolist() == [0, 1, 2, 3]
    assert weight.tolist() == [[pytest.approx(1 / 3)] * 3 + [1.0], [0.5, 0.5, 0.0, 1.0]]


def test_the_expected_rps_is_the_mean_of_what_would_be_measured():
    probs = np.array([[0.5, 0.3, 0.2]])
    measured = [((0.5 - (0 >= g)) ** 2 + (0.8 - (1 >= g)) ** 2) / 2 for g in range(3)]
    assert expected_rps(probs) == pytest.approx([np.dot(probs[0], measured)])


def test_ranks_among_the_held_out_pairs():
    assert ranks(np.array([1.0, 2.0, 3.0, 0.0, 9.0]), np.array([0, 1, 2])).tolist() == [1 / 3, 2 / 3, 1.0, 0.0, 1.0]


def test_shares_of_flagged_pairs_and_others():
    of, rows = np.array([0, 0, 1, 1]), np.arange(4)
    wrong, flagged = np.array([1.0, 0.0, 1.0, 0.0]), np.array([True, False, True, True])
    sums = compare_flagged(wrong, flagged, rows, of, np.array([[1.0, 1.0], [0.0, 2.0]]))
    assert sums.tolist() == [[2.0, 3.0, 0.0, 1.0], [2.0, 4.0, 0.0, 0.0]]
    found = summarise([{"wrong": sums[:1].repeat(3, 0), "rps": sums[:1].repeat(3, 0) * 0.5}] * 2)
    assert found["wrong_flagged"]["mean"] == pytest.approx(2 / 3, abs=1e-5) and found["pairs"] == 4
    assert found["share_flagged"]["mean"] == 0.75
