"""What the benchmarks of the cycle count."""

from __future__ import annotations

import pytest

from benchmarks.cycle.gate import SHAPES, false_gains
from benchmarks.cycle.releases import Searches


def test_searches_are_counted_and_timed_by_window():
    seen = Searches([(0.0, 100.0, "reranked"), (1.0, 300.0, "failed"), (2.0, 900.0, "not reranked")], ["no answer"])
    assert seen.figures() == {
        "searches": 3, "failed": 1, "not_reranked": 1, "p50_ms": 300.0, "p95_ms": 840.0, "p99_ms": 888.0,
        "max_ms": 900.0,
    }  # fmt: skip
    during = seen.figures([(0.05, 0.06), (2.5, 3.0)])  # what was running then, though it started before
    assert (during["searches"], during["failed"], during["not_reranked"]) == (2, 0, 1)
    assert seen.figures([(0.2, 0.9)])["searches"] == 0


def test_without_spread_nothing_is_a_gain():
    assert false_gains(lambda rng, n: rng.normal(size=n) * 0, 10, trials=20, draws=100) == 0.0
    assert false_gains(lambda rng, n: rng.normal(size=n) + 10, 10, trials=20, draws=100) == 1.0


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_have_mean_zero(name):
    import numpy as np

    values = SHAPES[name](np.random.default_rng(0), 200_000)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
