"""Candidates at random, and a selector of the product or of the benchmark by its name."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.cycle.selectors import COMPARED, Described
from trainer.dasa import SELECTORS, Candidates, Selector
from trainer.registry import Registry


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made(n: int, seed: int, *, h: int = 6, caps: dict[str, int] | None = None) -> Candidates:
    rng = np.random.default_rng(seed)
    return Described(
        features=unit(rng.normal(size=(n, h))),
        cost=rng.integers(1, 6, n),
        traffic=rng.integers(1, 50, n).astype(float),
        distance=rng.normal(size=n),
        flagged=rng.random(n) < 0.7,
        uncertainty=rng.random(n),
        slices=tuple(rng.choice(["", "pet", "bike"], n).tolist()),
        caps=caps or {},
        contrast=rng.random(n),
    )


def permuted(candidates: Candidates, order: np.ndarray) -> Candidates:
    arrays = ("features", "cost", "traffic", "distance", "flagged", "uncertainty", "contrast")
    slices = tuple(candidates.slices[i] for i in order)
    return dataclasses.replace(candidates, slices=slices, **{a: getattr(candidates, a)[order] for a in arrays})


def registry_of(name: str) -> Registry[type[Selector]]:
    return COMPARED if name in COMPARED else SELECTORS


def select(name: str, candidates: Candidates, known: np.ndarray, budget: int, seed: int = 0, **params) -> list[int]:
    make, values = registry_of(name).resolve(name, params)
    return make(**values)(candidates, known, budget, np.random.default_rng(seed))
