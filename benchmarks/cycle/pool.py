"""What a cycle would find: training and test queries, and a pool whose labels are hidden until they are paid for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cycle.selectors import Described
from benchmarks.cycle.shifts import AGAIN, GIBBERISH, PROBE, World
from benchmarks.quality.data import GAINS, Rows
from darl_opensearch.text import same_text
from trainer.dasa.config import SelectConfig
from trainer.dasa.features import average_pairs
from trainer.dasa.near import find_representatives
from trainer.dasa.noise import is_gibberish, mark_isolated
from trainer.ood import DETECTORS, ConformalCalibration
from trainer.ood.base import split_chunks
from trainer.stages.objective import Predictions

ID_SHARES = {"test": 0.3, "dev": 0.15, "traffic": 0.15}  # of the ID queries; the rest trains
POOL_SHARE = 0.65  # of the OOD queries
NOISE_SHARE = 0.08  # of the OOD queries of the pool, for each kind of noise
ALPHA = 0.05
DETECTOR = "knn"
SELECT = SelectConfig()
ITEMS = SELECT.items_per_query

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Who does what in one repetition. No query is in two parts.

    :param train: ID queries with labels.
    :param dev: ID queries that stop, calibrate, and calibrate the detector.
    :param id_test: ID queries that test.
    :param ood_test: OOD queries that test.
    :param ood: OOD queries of the pool.
    :param pool: every query of the pool: OOD, ID traffic and noise, in an order drawn at random.
    """

    train: Rows
    dev: Rows
    id_test: Rows
    ood_test: Rows
    ood: Rows
    pool: Rows


def draw(world: World, *, seed: int) -> Parts:
    """Draw who does what.

    :param world: the shift.
    :param seed: of the repetition.
    :return: the parts.
    """
    rng = np.random.default_rng([seed, 7])
    inside = rng.permutation(np.flatnonzero(world.inside))
    outside = rng.permutation(np.flatnonzero(world.outside))
    sizes = [round(len(inside) * share) for share in ID_SHARES.values()]
    test, dev, traffic, train = np.split(inside, np.cumsum(sizes))
    pool, ood_test = np.split(outside, [round(len(outside) * POOL_SHARE)])
    n_noise = max(2, round(len(pool) * NOISE_SHARE))
    noise = []
    for kind in (GIBBERISH, PROBE, AGAIN):
        rows = np.flatnonzero(world.noise == kind)
        if kind == AGAIN:
            rows = rows[np.isin(world.origin[rows], np.concatenate([pool, traffic]))]
        noise.append(rng.permutation(rows)[:n_noise])
    everything = rng.permutation(np.concatenate([pool, traffic, *noise]))
    return Parts(np.sort(train), np.sort(dev), np.sort(test), np.sort(ood_test), np.sort(pool), everything)


def units(world: World, queries: Rows, score: Floats, *, items: int = ITEMS) -> list[Ints]:
    """Choose the items of each query that would be judged: evenly over the order of the model that serves.

    :param world: the shift.
    :param queries: of the pool.
    :param score: ``[n]`` of every pair, by the model that serves.
    :param items: most items of a query.
    :return: rows of the pairs, for each query.
    """
    found = []
    for query in queries.tolist():
        rows = world.judged.rows(np.array([query])).numpy()
        rows = rows[np.argsort(-score[rows], kind="stable")]
        if len(rows) > items:
            rows = rows[np.linspace(0, len(rows) - 1, items).round().astype(np.int64)]
        found.append(np.sort(rows))
    return found


@dataclass(frozen=True)
class Strangeness:
    """The detector of the product, fitted on training pairs and calibrated on dev pairs.

    :param detector: registered detector, fitted.
    :param calibration: of its distances.
    """

    detector: torch.nn.Module
    calibration: ConformalCalibration

    @torch.no_grad()
    def __call__(self, world: World, rows: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """Measure pairs.

        :param world: the shift.
        :param rows: of pairs.
        :return: ``ood_distance`` and whether the pair is flagged, each ``[n]``.
        """
        columns = self.calibration(self.detector(halves(world, rows))).double().numpy()
        return columns[:, 1], columns[:, 0] >= 1 - ALPHA


def halves(world: World, rows: Ints) -> torch.Tensor:
    """Query and item embeddings of pairs, side by side.

    :param world: the shift.
    :param rows: of pairs.
    :return: ``[n, 2h]``.
    """
    index = world.judged.pairs.index[torch.from_numpy(rows)].numpy()
    return torch.from_numpy(np.concatenate([world.query[index[:, 0]], world.item[index[:, 1]]], axis=1))


def strangeness(world: World, parts: Parts) -> Strangeness:
    """Fit the detector as ``darl train`` does by default: on training pairs, calibrated on held-out ones.

    :param world: the shift.
    :param parts: of the repetition.
    :return: the detector.
    """
    train, dev = (halves(world, world.judged.rows(queries).numpy()) for queries in (parts.train, parts.dev))
    make, values = DETECTORS.resolve(DETECTOR, {})
    detector = make(train.shape[1], halves=2, **values)
    detector.fit(split_chunks(train))
    with torch.no_grad():
        return Strangeness(detector, ConformalCalibration.fit(detector(dev), ALPHA))


@dataclass(frozen=True)
class Pool:
    """What selectors choose from, after the product's filters.

    :param queries: of each candidate.
    :param items: rows of the pairs that would be judged with each.
    :param candidates: as selectors see them.
    :param known: ``[m, h]`` features of the training queries.
    :param found: by kind of query (``OOD``, ``ID`` and the kinds of noise): how many there were, passed the filters,
        and are flagged.
    """

    queries: Rows
    items: list[Ints]
    candidates: Described
    known: Floats32
    found: dict[str, list[int]]


def make_pool(world: World, parts: Parts, said: Predictions, *, items: int = ITEMS, filters: bool = True) -> Pool:
    """Make a pool of what the log holds, as ``darl select`` does.

    :param world: the shift.
    :param parts: of the repetition.
    :param said: of every pair, by the model that serves.
    :param items: most items of a query.
    :param filters: drop gibberish, near-duplicates, and what lies by itself.
    :return: the pool.
    """
    strange = strangeness(world, parts)
    every = units(world, parts.pool, said.latent, items=items)
    keys = [same_text(world.judged.pairs.queries[query]) for query in parts.pool.tolist()]
    left = np.ones(len(keys), dtype=np.bool_)
    known = _features(world, units(world, parts.train, said.latent, items=items))
    features = _features(world, every)
    if filters:
        left &= np.array([not is_gibberish(key) for key in keys])
        same = find_representatives(keys, np.ones(len(keys), dtype=np.int64), np.flatnonzero(left).tolist(),
                               threshold=SELECT.near_threshold, near_rows=SELECT.near_rows)  # fmt: skip
        left[list(same)] = False
    distance, flagged = (_mean(values, every) for values in strange(world, np.concatenate(every)))
    called = flagged >= SELECT.flagged_share
    if filters:
        rows = np.flatnonzero(left & called)
        left[rows[mark_isolated(features[rows], known, SELECT.noise)]] = False
    kind = np.where(world.inside[parts.pool], "ID", np.where(world.outside[parts.pool], "OOD",
                                                             world.noise[parts.pool]))  # fmt: skip
    found = {str(k): [int(v[kind == k].sum()) for v in (kind == k, left, left & called)] for k in np.unique(kind)}
    rows = np.flatnonzero(left)
    kept = [every[row] for row in rows]
    flat = np.concatenate(kept)
    probs = said.grade_probs[flat]
    entropy = -(probs * np.log(np.clip(probs, 1e-12, None))).sum(1)
    score = said.grade_probs @ np.asarray(GAINS) / max(GAINS)
    candidates = Described(
        features=features[rows], cost=np.array([len(pairs) for pairs in kept]), traffic=np.ones(len(rows)),
        flagged=called[rows], slices=("",) * len(rows), distance=distance[rows], uncertainty=_mean(entropy, kept),
        contrast=np.array([score[pairs].std() for pairs in kept]),
    )  # fmt: skip
    return Pool(parts.pool[rows], kept, candidates, known, found)


def _features(world: World, items: list[Ints]) -> Floats32:
    pairs = halves(world, np.concatenate(items)).numpy()
    return average_pairs(pairs, [len(rows) for rows in items], 2)


def _mean(values: NDArray[np.generic], items: list[Ints]) -> Floats:
    count = np.array([len(rows) for rows in items])
    starts = np.concatenate([[0], np.cumsum(count)[:-1]])
    return np.asarray(np.add.reduceat(values.astype(np.float64), starts) / count)
