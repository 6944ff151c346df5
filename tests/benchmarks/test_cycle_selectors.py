"""The selectors that ``darl select`` is compared with, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.cycle.selectors import COMPARED, Described
from tests.helpers.selectors import made, select, unit


def test_k_center_takes_the_farthest_of_known_and_chosen():
    angles = np.radians([5.0, 40.0, 90.0, 100.0])
    candidates = dataclasses.replace(
        made(4, 0),
        features=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
        flagged=np.ones(4, dtype=bool), cost=np.ones(4, dtype=np.int64),
    )  # fmt: skip
    known = np.array([[1.0, 0.0]], dtype=np.float32)
    assert select("k_center", candidates, known, 4) == [3, 1, 2, 0]
    assert select("novelty", candidates, known, 4) == [3, 2, 1, 0]  # the second beside the first


def test_novelty_reads_the_kth_known_neighbour():
    candidates = dataclasses.replace(
        made(2, 0),
        features=np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32),
        flagged=np.ones(2, dtype=bool), cost=np.ones(2, dtype=np.int64),
    )  # fmt: skip
    known = unit(np.array([[1, 0.1, 0], [0.2, 1, 0], [0.3, 1, 0]]))  # two beside the second candidate
    assert select("novelty", candidates, known, 2) == [1, 0]
    assert select("novelty", candidates, known, 2, k=2) == [0, 1]
    assert select("novelty", candidates, known, 2, k=9) == select("novelty", candidates, known, 2, k=3)


def test_uncertainty_takes_the_highest_entropy_first():
    candidates = dataclasses.replace(
        made(3, 0), uncertainty=np.array([0.1, 0.9, 0.5]), flagged=np.ones(3, dtype=bool), cost=np.array([1, 5, 1])
    )
    assert select("uncertainty", candidates, np.empty((0, 6)), 7) == [1, 2, 0]
    assert select("uncertainty", candidates, np.empty((0, 6)), 4) == []  # the first does not fit: it ends there


def test_typiclust_takes_the_middle_of_clusters_without_known_ones():
    rng = np.random.default_rng(0)
    centres = np.eye(3)
    groups = [
        unit(centre + 0.1 * rng.normal(size=(size, 3))) for centre, size in zip(centres, (30, 20, 10), strict=True)
    ]
    features = np.concatenate(groups)
    candidates = dataclasses.replace(
        made(60, 0, h=3), features=features, flagged=np.ones(60, dtype=bool), cost=np.ones(60, dtype=np.int64)
    )
    known = unit(centres[:1] + 0.05 * rng.normal(size=(1, 3)))  # in the largest group
    first, second = select("typiclust", candidates, known, 2)
    assert 30 <= first < 50 <= second < 60  # the larger of the groups with nothing known, then the other
    for row, group in ((first, groups[1]), (second, groups[2])):
        assert features[row] @ unit(group.mean(axis=0, keepdims=True))[0] > 0.99


# ---- contrast


def spread(contrast: list[float], flagged: list[bool]) -> Described:
    n = len(flagged)
    return Described(
        features=np.eye(n, dtype=np.float32), cost=np.full(n, 3), traffic=np.ones(n), distance=np.zeros(n),
        flagged=np.array(flagged), uncertainty=np.zeros(n), slices=("",) * n, contrast=np.array(contrast),
    )  # fmt: skip


def choose_by_contrast(pool: Described, budget: int, *, seed: int = 0, **params: str) -> list[int]:
    make, values = COMPARED.resolve("contrast", params)
    return make(**values)(pool, np.empty((0, len(pool)), np.float32), budget, np.random.default_rng(seed))


def test_the_widest_spread_of_scores_comes_first_among_the_flagged():
    pool = spread([0.1, 0.4, 0.9, 0.3], [True, True, False, True])
    assert choose_by_contrast(pool, 9) == [1, 3, 0]
    assert choose_by_contrast(pool, 6) == [1, 3]
    assert choose_by_contrast(pool, 12, over="all") == [2, 1, 3, 0]


def test_of_equal_spreads_chance_decides():
    pool = spread([0.5] * 20, [True] * 20)
    assert sorted(choose_by_contrast(pool, 60)) == list(range(20))
    assert choose_by_contrast(pool, 60) != choose_by_contrast(pool, 60, seed=1)
