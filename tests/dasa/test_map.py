"""The map of a selection: where the queries lie, against scikit-learn's principal components."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA

from trainer.dasa.map import CANDIDATE, CHOSEN, MOST_POINTS, TRAINING, Mapped, map_queries, project


def unit(n, h, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, h)) * np.linspace(3, 0.2, h)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def kinds(training, pool, selected):
    return {
        TRAINING: Mapped(training, np.arange(len(training)), lambda row: f"t{row}"),
        CANDIDATE: Mapped(pool, np.flatnonzero(~selected), lambda row: f"p{row}"),
        CHOSEN: Mapped(pool, np.flatnonzero(selected), lambda row: f"p{row}"),
    }


@pytest.mark.parametrize("shape", [(40, 6), (5, 30), (3, 2)])
def test_coordinates_are_the_principal_components(shape):
    rows = unit(*shape)
    places, explained = project(rows)
    oracle = PCA(2, svd_solver="full").fit(rows.astype(np.float64))
    assert_allclose(explained, oracle.explained_variance_ratio_, atol=1e-5)
    assert_allclose(np.abs(places), np.abs(oracle.transform(rows.astype(np.float64))), atol=1e-6)


def test_the_largest_coordinate_is_positive_whichever_sign_the_library_chose():
    for seed in range(20):
        places, _ = project(unit(9, 4, seed))
        assert (places[np.abs(places).argmax(0), [0, 1]] > 0).all()


def test_a_line_has_one_component():
    places, explained = project(np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]], dtype=np.float32))
    assert_allclose(np.abs(places), [[5, 0], [0, 0], [5, 0]], atol=1e-6)
    assert explained == [1.0, 0.0]


@pytest.mark.parametrize("rows", [np.ones((4, 3)), np.ones((1, 3))])
def test_equal_rows_have_no_variance(rows):
    places, explained = project(rows.astype(np.float32))
    assert explained is None and places.tolist() == [[0.0, 0.0]] * len(rows)


def test_each_query_is_told_by_its_kind():
    training, pool = unit(7, 5), unit(6, 5, seed=1)
    selected = np.array([False, True, False, False, True, False])
    found = map_queries(kinds(training, pool, selected), seed=0)
    assert found["kinds"] == {
        TRAINING: {"queries": 7, "shown": 7}, CANDIDATE: {"queries": 4, "shown": 4}, CHOSEN: {"queries": 2, "shown": 2},
    }  # fmt: skip
    assert [p["query"] for p in found["points"]] == [*(f"t{n}" for n in range(7)), "p0", "p2", "p3", "p5", "p1", "p4"]
    places, _ = project(np.concatenate([training, pool[~selected], pool[selected]]))
    assert_allclose([[p["x"], p["y"]] for p in found["points"]], places, atol=1e-5)


def test_large_sets_are_sampled_and_counted():
    count = MOST_POINTS + 200
    found = map_queries(kinds(unit(count, 4), unit(3, 4, seed=1), np.array([True, False, False])), seed=5)
    assert found["kinds"][TRAINING] == {"queries": count, "shown": MOST_POINTS}
    assert Counter(p["kind"] for p in found["points"]) == {TRAINING: MOST_POINTS, CANDIDATE: 2, CHOSEN: 1}
    again, other = (
        map_queries(kinds(unit(count, 4), unit(3, 4, seed=1), np.array([True, False, False])), seed=seed)
        for seed in (5, 6)
    )
    assert again == found != other


def test_nothing_to_map():
    empty = np.empty((0, 0), dtype=np.float32)
    found = map_queries(kinds(empty, np.empty((0, 4), dtype=np.float32), np.zeros(0, dtype=bool)), seed=0)
    assert found["points"] == [] and found["explained"] is None
    # Without training queries their features have no width.
    found = map_queries(kinds(empty, unit(3, 4), np.array([True, False, False])), seed=0)
    assert [p["kind"] for p in found["points"]] == [CANDIDATE, CANDIDATE, CHOSEN] and len(found["explained"]) == 2
