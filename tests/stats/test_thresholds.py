"""Grades and scores as thresholds."""

from __future__ import annotations

import math

import numpy as np

from darl_opensearch.stats.thresholds import grade_figures, score_figures

PROBS = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]])
GRADES, QUERY = np.array([1, 1, 2, 0, 2]), np.array([0, 0, 1, 1, 3])


def test_precision_and_recall_by_grade():
    figures = grade_figures(PROBS, GRADES, QUERY, 4)
    points = {grade: (part["precision"].point, part["recall"].point) for grade, part in figures.items()}
    assert points == {1: (3 / 4, 3 / 4), 2: (1 / 2, 1 / 2)}
    assert figures[1]["precision"].n == 3 and figures[2]["precision"].n == 1 and figures[2]["recall"].n == 2


def test_nothing_reaches_a_threshold():
    figures = grade_figures(PROBS[:1], GRADES[:1], QUERY[:1], 1)
    assert math.isnan(figures[2]["precision"].point) and math.isnan(figures[2]["recall"].point)
    assert figures[1]["recall"].point == 0.0


def test_scores_beside_gains():
    score, gain = np.array([0.1, 0.3, 0.6, 0.8, 0.75]), np.array([0.0, 1.0, 1.0, 0.5, 1.0])
    figures = score_figures(score, gain, QUERY, 4)
    np.testing.assert_allclose(
        [[part["score"].point, part["gain"].point] for part in figures.values()],
        [[2.45 / 4, 3.5 / 4], [2.15 / 3, 2.5 / 3], [1.55 / 2, 1.5 / 2]],
    )
