"""The selector that asks first where the model itself tells the items apart."""

from __future__ import annotations

import numpy as np

from trainer.dasa import SELECTORS, Candidates


def candidates(contrast: list[float], flagged: list[bool]) -> Candidates:
    n = len(flagged)
    return Candidates(
        features=np.eye(n, dtype=np.float32), cost=np.full(n, 3), traffic=np.ones(n), strangeness=np.zeros(n),
        flagged=np.array(flagged), uncertainty=np.zeros(n), slices=("",) * n, contrast=np.array(contrast),
    )  # fmt: skip


def choose(pool: Candidates, budget: int, *, seed: int = 0, **params: str) -> list[int]:
    make, values = SELECTORS.resolve("contrast", params)
    return make(**values)(pool, np.empty((0, len(pool)), np.float32), budget, np.random.default_rng(seed))


def test_the_widest_spread_of_scores_comes_first_among_the_flagged():
    pool = candidates([0.1, 0.4, 0.9, 0.3], [True, True, False, True])
    assert choose(pool, 9) == [1, 3, 0]
    assert choose(pool, 6) == [1, 3]
    assert choose(pool, 12, over="all") == [2, 1, 3, 0]


def test_without_scores_all_are_equal_and_chance_decides():
    pool = candidates([], [True] * 20)
    assert sorted(choose(pool, 60)) == list(range(20))
    assert choose(pool, 60) != choose(pool, 60, seed=1)
