"""Grades of flagged pairs beside the others: by hand, and where one kind is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from darl_opensearch.stats.bootstrap import resample
from darl_opensearch.stats.flagged import FLAGGED_FIGURES, flagged_figures

PROBS = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
GRADES = np.array([0, 0, 2, 2, 0])  # right, wrong, right, wrong, right
QUERY = np.array([0, 0, 1, 1, 2])


def test_by_hand():
    flagged = np.array([False, True, False, True, True])
    figures = flagged_figures(PROBS, GRADES, flagged, QUERY, 4)
    assert tuple(figures) == FLAGGED_FIGURES
    assert figures["wrong_flagged"].point == pytest.approx(2 / 3) and figures["wrong_other"].point == 0.0
    errors = [(0.2, 0.1), (0.8, 0.1), (0.1, 0.2), (0.6, 0.9), (0.4, 0.1)]  # of P(grade > 0) and P(grade > 1)
    rps = [(one**2 + two**2) / 2 for one, two in errors]
    assert figures["rps_flagged"].point == pytest.approx(np.mean([rps[1], rps[3], rps[4]]))
    assert figures["rps_other"].point == pytest.approx(np.mean([rps[0], rps[2]]))
    assert math.isnan(figures["wrong_ratio"].point)  # no other pair is wrong: no number of times
    assert [figures[name].n for name in ("wrong_flagged", "wrong_other")] == [3, 2]  # query 3 has no pair
    turned = flagged_figures(PROBS, GRADES, np.array([True, True, True, False, False]), QUERY, 4)
    assert turned["wrong_ratio"].point == pytest.approx((1 / 3) / (1 / 2))
    interval = resample(turned, draws=200, seed=0)["wrong_ratio"].interval()
    assert interval.low <= interval.mean <= interval.high


@pytest.mark.parametrize(("flag", "missing"), [(True, "other"), (False, "flagged")])
def test_all_pairs_of_one_kind(flag, missing):
    figures = flagged_figures(PROBS, GRADES, np.full(5, flag), QUERY, 3)
    assert math.isnan(figures[f"wrong_{missing}"].point) and math.isnan(figures[f"rps_{missing}"].point)
    assert math.isnan(figures["wrong_ratio"].point)
