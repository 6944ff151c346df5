"""Does it matter which flagged queries are judged, and what do the lucky draws have in common?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cycle.learner import learn
from benchmarks.cycle.pool import Pool, draw, make_pool
from benchmarks.cycle.shifts import Shift, World
from benchmarks.quality.data import GAINS
from darl_opensearch.stats.bootstrap import percentiles
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.dasa.coverage import choose_bandwidth, measure_coverage
from trainer.dasa.neighbours import find_nearest
from trainer.dasa.purse import take_in_order

DRAWS, BUDGET, RESAMPLES = 40, 100, 2000
# What a selector could know, and what only the labels tell.
KNOWN = ("coverage", "contrast", "distance", "entropy")
TOLD = ("queries of people, new", "queries whose grades differ", "mean grade")

Floats = NDArray[np.float64]


def properties(world: World, pool: Pool, chosen: Sequence[int], bandwidth: float) -> list[float]:
    """Describe a choice.

    :param world: the shift.
    :param pool: what was chosen from.
    :param chosen: rows of it.
    :param bandwidth: of the kernel that coverage is measured by.
    :return: one value for each of ``KNOWN`` and ``TOLD``.
    """
    found, rows = pool.candidates, list(chosen)
    flagged = found.features[found.flagged]
    grades = [world.judged.pairs.grades[torch.from_numpy(pool.items[row])].numpy() for row in rows]
    return [
        float(measure_coverage(found.features[rows], flagged, bandwidth).mean()), float(found.contrast[rows].mean()),
        float(found.distance[rows].mean()), float(found.uncertainty[rows].mean()),
        float(world.outside[pool.queries[rows]].mean()), float(np.mean([len(set(g.tolist())) > 1 for g in grades])),
        float(np.concatenate(grades).mean()),
    ]  # fmt: skip


def luck(world: World, shift: Shift, seeds: Sequence[int], say: Callable[[str], object]) -> dict[str, Any]:
    """Judge many random choices of one size, on the same split of each seed.

    :param world: the shift.
    :param shift: the shift.
    :param seeds: one a split.
    :param say: called with what was just done.
    :return: JSON-ready: spread of nDCG over choices and over splits, and rank correlations with what was chosen.
    """
    quality, described = np.zeros((len(seeds), DRAWS)), np.zeros((len(seeds), DRAWS, len(KNOWN + TOLD)))
    for place, seed in enumerate(seeds):
        parts = draw(world, seed=seed)
        said = learn(world, parts.train, parts.dev, []).predict(torch.arange(len(world.judged.pairs.grades)))
        pool = make_pool(world, parts, said)
        flagged = np.flatnonzero(pool.candidates.flagged)
        features = pool.candidates.features[flagged]
        bandwidth = choose_bandwidth(find_nearest(features, features, min(11, len(flagged)))[0][:, -1])
        test = world.judged.rows(parts.ood_test)
        gain = np.asarray(GAINS)[world.judged.pairs.grades[test].numpy()]
        index = world.judged.pairs.query_index[test].numpy()
        for number in range(DRAWS):
            rng = np.random.default_rng([seed, number, 13])
            chosen = take_in_order(rng.permutation(flagged), pool.candidates, BUDGET)
            model = learn(world, parts.train, parts.dev, [pool.items[row] for row in chosen])
            values = ndcg_per_query(model.predict(test).latent, gain, index, cutoff=shift.cutoff[1])
            quality[place, number] = np.mean(list(values.values()))
            described[place, number] = properties(world, pool, chosen, bandwidth)
        say(f"{shift.name}: {DRAWS} draws of seed {seed}")
    spread = {"choices": float(quality.std(1, ddof=1).mean()), "splits": float(quality.mean(1).std(ddof=1))}
    return {
        "budget": BUDGET, "draws": DRAWS, "seeds": len(seeds), "mean": round(float(quality.mean()), 5),
        "deviation": {name: round(value, 5) for name, value in spread.items()},
        "correlations": {
            name: correlation(ranks(quality), ranks(described[:, :, i])) for i, name in enumerate(KNOWN + TOLD)
        },
    }  # fmt: skip


def ranks(values: Floats) -> Floats:
    """Rank within each split, centred and scaled.

    :param values: ``[s, d]``.
    :return: ``[s, d]`` with mean 0 and deviation 1 in each row; equal values by their place.
    """
    placed = values.argsort(1, kind="stable").argsort(1, kind="stable").astype(np.float64)
    centred = placed - placed.mean(1, keepdims=True)
    return np.asarray(centred / centred.std(1, keepdims=True))


def correlation(one: Floats, other: Floats, *, seed: int = 0) -> dict[str, float]:
    """Correlate ranks within splits.

    :param one: ``[s, d]`` of :func:`ranks`.
    :param other: the same.
    :param seed: of the resampling of choices.
    :return: ``mean`` and its 95 % interval.
    """
    products = (one * other).ravel()
    rng = np.random.default_rng(seed)
    draws = products[rng.integers(len(products), size=(RESAMPLES, len(products)))].mean(1)
    low, high = percentiles(draws)
    return {"mean": round(float(products.mean()), 4), "low": round(low, 4), "high": round(high, 4)}
