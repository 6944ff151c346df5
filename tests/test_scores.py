"""Columns, scale and the one rule for a grade."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.errors import InputError
from darl_opensearch.scores import Columns, GradeScale, Scores, grade_of, is_ood


@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_columns_cover_a_row_once(k):
    columns = Columns(k)
    row = list(range(columns.width))
    assert columns.width == 3 + k
    assert [row[columns.score], *row[columns.grade_probs], row[columns.ood_score], row[columns.ood_distance]] == row
    fields = columns.hit_fields()
    assert list(fields.values()) == row
    assert list(fields) == [
        "darl_score", *(f"darl_grade_probs_{g}" for g in range(k)), "darl_ood_score", "darl_ood_distance",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "gains", "message"),
    [
        (("a", "b"), (0.0,), "2 grade names but 1 gains"),
        (("a",), (0.0,), "at least two grades"),
        (("a", "a"), (0.0, 1.0), "not distinct"),
        (("a", "b"), (1.0, 1.0), "must be at least 0 and increasing"),
        (("a", "b"), (-1.0, 1.0), "must be at least 0 and increasing"),
        (("a", "b", "c"), (0.0, 2.0, 1.0), "must be at least 0 and increasing"),
        (("a", "b"), (0.0, float("nan")), "must be at least 0 and increasing"),
        (("a", "b"), (float("nan"), 1.0), "must be at least 0 and increasing"),
        (("a", "b"), (0.0, float("inf")), "must be at least 0 and increasing"),
    ],
)
def test_a_scale_that_is_none(names, gains, message):
    with pytest.raises(InputError, match=message):
        GradeScale(names, gains)


def test_grade_ties_go_to_the_lower_grade():
    assert grade_of([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0]]).tolist() == [0, 1, 0, 2]
    assert grade_of(np.zeros((0, 3))).tolist() == []


@given(alpha=st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.25]), n=st.integers(1, 500))
def test_is_ood_survives_float32_and_six_decimals(alpha, n):
    p = (1 + np.arange(n + 1)) / (n + 1)
    exact = p <= alpha + 1e-12
    for value in ((1 - p), (1 - p).astype(np.float32), np.float32(1) - p.astype(np.float32), np.round(1 - p, 6)):
        assert (is_ood(value, alpha) == exact).all()


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=12))
def test_order_is_by_score_and_stable(values):
    data = np.zeros((len(values), 5), dtype=np.float32)
    data[:, 0] = values
    order = Scores(data, 0.05).order().tolist()
    assert order == sorted(range(len(values)), key=lambda i: (-values[i], i))


def test_scores_name_their_columns():
    data = np.array([[0.5, 0.2, 0.5, 0.3, 0.96, 1.5], [0.1, 0.9, 0.1, 0.0, 0.2, -0.5]], dtype=np.float32)
    scores = Scores(data, 0.05)
    assert len(scores) == 2 and scores.columns.k == 3
    assert scores.grade.tolist() == [1, 0] and scores.is_ood.tolist() == [True, False]
    assert scores.ood_distance.tolist() == [1.5, -0.5]
    assert scores.grade_probs.shape == (2, 3)


@pytest.mark.parametrize("data", [np.zeros((2, 4)), np.zeros(5), np.full((1, 5), np.nan), np.full((1, 5), np.inf)])
def test_scores_that_keep_no_contract(data):
    with pytest.raises(InputError, match="darl check"):
        Scores(data.astype(np.float32), 0.05)
