"""Label curves: what each selector's choice is worth, by the number of pairs that were judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cycle.learner import learn
from benchmarks.cycle.pool import ITEMS, Parts, Pool, draw, make_pool
from benchmarks.cycle.selectors import COMPARED
from benchmarks.cycle.shifts import Shift, World
from benchmarks.quality.data import GAINS, Rows
from benchmarks.quality.training import Fitted, cut_points
from darl_opensearch.stats.bootstrap import Figure, mean_over_queries
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.dasa import SELECTORS
from trainer.evaluate.grading import Grading

BUDGETS = (50, 100, 200, 400, 800)
PARTS = ("OOD", "ID")
MEASURES = ("ndcg", "kappa", "cut_kappa", "macro_f1", "ece")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Sums of one measure, which figures of any resample can be had from.

    :param sums: ``[s, b, q, m]`` of each seed, budget and query; a query that a seed did not test has zeros.
    :param value: from totals ``[..., m]`` to the figure ``[...]``.
    """

    sums: NDArray[np.float32]
    value: Callable[[Floats], Floats]


Tables = dict[str, dict[str, Table]]  # by part and measure


@dataclass(frozen=True)
class Curves:
    """What one shift has shown.

    :param grid: pairs judged at each point but the last of a curve; 0 first.
    :param every: mean number of pairs that could be judged, after the filters.
    :param tables: by selector; the last column of each is a model that saw every label of the OOD pool's queries.
    :param found: of each seed, by kind of query: how many there were, passed the filters, and are flagged.
    :param chosen: by selector, share of the judged queries that are OOD queries of people, at each budget.
    :param sizes: queries of each part in one repetition.
    """

    grid: tuple[int, ...]
    every: float
    tables: dict[str, Tables]
    found: list[dict[str, list[int]]]
    chosen: dict[str, list[float]]
    sizes: dict[str, int]


@dataclass(frozen=True)
class Arm:
    """A row of the table.

    :param selector: a selector of the product, or one that it is compared with.
    :param items: most items judged with a query.
    :param filters: whether the product's filters went over the pool first.
    :param over: ``flagged``: it chooses among what the detector flags; ``all``: among everything; for selectors that
        have this parameter.
    """

    selector: str
    items: int = ITEMS
    filters: bool = True
    over: str = ""


ARMS = {
    "DASA (herding)": Arm("herding"),
    "random among the flagged": Arm("random_flagged"),
    "random": Arm("random"),
    "novelty": Arm("novelty"),
    "uncertainty": Arm("uncertainty"),
    "k-centre": Arm("k_center"),
    "TypiClust": Arm("typiclust"),
    "contrast": Arm("contrast"),
}
ABLATIONS = {
    f"{name}, {what}": dataclasses.replace(ARMS[name], **change)
    for what, change in (("lone pairs", {"items": 1}), ("no filters", {"filters": False}))
    for name in ("DASA (herding)", "random among the flagged", "contrast")
    if (name, what) != ("contrast", "lone pairs")  # of one item no scores spread
}
# Where the detector flags too little to choose from.
NOT_FLAGGED = {
    "random": ARMS["random"],
    **{
        f"{name}, all": dataclasses.replace(ARMS[name], over="all")
        for name in ("DASA (herding)", "contrast", "k-centre")
    },
}


def budgets(pairs: float) -> tuple[int, ...]:
    """Choose the points of a curve: up to half of what could be judged.

    :param pairs: that could be judged.
    :return: 0, the round budgets below the half, and the half or the largest budget.
    """
    half = min(int(pairs // 2), BUDGETS[-1])
    return (0, *(b for b in BUDGETS if b < half), half)


def trace(
    world: World, shift: Shift, arms: Mapping[str, Arm], seeds: Sequence[int], say: Callable[[str], object],
    *, flagged: bool = True,
) -> Curves:  # fmt: skip
    """Draw every curve of a shift.

    :param world: its features.
    :param shift: the shift.
    :param arms: rows by name.
    :param seeds: one a repetition.
    :param say: called with what was just done.
    :param flagged: whether a curve goes up to half of what is flagged, or of the whole pool.
    :return: the curves.
    """
    drawn = [draw(world, seed=seed) for seed in seeds]
    alone = [learn(world, parts.train, parts.dev, []) for parts in drawn]
    kinds = sorted({(arm.items, arm.filters) for arm in arms.values()} | {(ITEMS, True)})
    pools = {kind: [_pool(world, *both, *kind) for both in zip(drawn, alone, strict=True)] for kind in kinds}
    usual = pools[(ITEMS, True)]
    every = float(np.mean([pool.candidates.cost[pool.candidates.flagged | (not flagged)].sum() for pool in usual]))
    grid = budgets(every)
    tested = {"OOD": np.flatnonzero(world.outside), "ID": np.flatnonzero(world.inside)}
    told: dict[str, list[list[dict[str, dict[str, Figure]]]]] = {name: [] for name in arms}
    chosen: dict[str, list[list[float]]] = {name: [] for name in arms}
    for place, (seed, parts) in enumerate(zip(seeds, drawn, strict=True)):
        ends = [_test(world, shift, parts, alone[place], tested), _saw_all(world, shift, parts, tested)]
        for name, arm in arms.items():
            pool = pools[(arm.items, arm.filters)][place]
            rows, shares = [ends[0]], []
            for budget in grid[1:]:
                picked = select(arm, pool, budget, seed=seed)
                model = learn(world, parts.train, parts.dev, [pool.items[row] for row in picked])
                rows.append(_test(world, shift, parts, model, tested))
                shares.append(float(np.mean(world.outside[pool.queries[picked]])) if picked else float("nan"))
            told[name].append([*rows, ends[1]])
            chosen[name].append(shares)
        say(f"{shift.name}: seed {seed}")
    sizes = {"train": len(drawn[0].train), "dev": len(drawn[0].dev), "ID test": len(drawn[0].id_test),
             "OOD pool": len(drawn[0].ood), "OOD test": len(drawn[0].ood_test)}  # fmt: skip
    return Curves(
        grid, every, {name: _tables(seeds_told) for name, seeds_told in told.items()}, [p.found for p in usual],
        {name: [round(float(v), 3) for v in np.nanmean(shares, axis=0)] for name, shares in chosen.items()}, sizes,
    )  # fmt: skip


def ends(world: World, shift: Shift, seeds: Sequence[int]) -> Tables:
    """Test a model that saw no label of the OOD pool, and one that saw all.

    :param world: its features.
    :param shift: the shift.
    :param seeds: one a repetition.
    :return: tables of two points.
    """
    tested = {"OOD": np.flatnonzero(world.outside), "ID": np.flatnonzero(world.inside)}
    told = []
    for parts in (draw(world, seed=seed) for seed in seeds):
        alone = learn(world, parts.train, parts.dev, [])
        told.append([_test(world, shift, parts, alone, tested), _saw_all(world, shift, parts, tested)])
    return _tables(told)


def select(arm: Arm, pool: Pool, budget: int, *, seed: int) -> list[int]:
    """Let a selector choose.

    :param arm: which, and among what.
    :param pool: what from.
    :param budget: pairs.
    :param seed: of the repetition.
    :return: rows of the pool.
    """
    selectors = COMPARED if arm.selector in COMPARED else SELECTORS
    make, values = selectors.resolve(arm.selector, {"over": arm.over} if arm.over else {})
    return make(**values)(pool.candidates, pool.known, budget, np.random.default_rng([seed, 11]))


def _pool(world: World, parts: Parts, model: Fitted, items: int, filters: bool) -> Pool:
    said = model.predict(torch.arange(len(world.judged.pairs.grades)))
    return make_pool(world, parts, said, items=items, filters=filters)


def _saw_all(world: World, shift: Shift, parts: Parts, tested: Mapping[str, Rows]) -> dict[str, dict[str, Figure]]:
    """Test a model that saw every label of the OOD queries in the pool, all items of each."""
    rows = [world.judged.rows(np.array([query])).numpy() for query in parts.pool.tolist() if world.outside[query]]
    return _test(world, shift, parts, learn(world, parts.train, parts.dev, rows), tested)


def _test(
    world: World, shift: Shift, parts: Parts, model: Fitted, tested: Mapping[str, Rows]
) -> dict[str, dict[str, Figure]]:
    dev = world.judged.rows(parts.dev)
    cuts = cut_points(model, world.judged.part(parts.dev), dev)
    found = {}
    for part, queries, cutoff in (("OOD", parts.ood_test, shift.cutoff[1]), ("ID", parts.id_test, shift.cutoff[0])):
        rows = world.judged.rows(queries)
        said = model.predict(rows)
        grades = world.judged.pairs.grades[rows].numpy()
        index = np.searchsorted(tested[part], world.judged.pairs.query_index[rows].numpy())
        n = len(tested[part])
        ndcg = np.full(n, np.nan)
        values = ndcg_per_query(said.latent, np.asarray(GAINS)[grades], index, cutoff=cutoff)
        ndcg[list(values)] = list(values.values())
        graded = Grading(said.grade_probs, grades, index, n).figures()
        sharp = Grading(np.eye(len(GAINS))[np.searchsorted(cuts, said.latent)], grades, index, n).figures()
        found[part] = dict(zip(MEASURES, (
            mean_over_queries(ndcg), graded["quadratic_kappa"], sharp["quadratic_kappa"], graded["macro_f1"],
            graded["ece"],
        ), strict=True))  # fmt: skip
    return found


def _tables(told: list[list[dict[str, dict[str, Figure]]]]) -> Tables:
    """Stack the sums of seeds and budgets."""
    tables: Tables = {}
    for part in PARTS:
        for measure in MEASURES:
            figures = [[point[part][measure] for point in row] for row in told]
            sums = np.stack([np.stack([figure.sums for figure in row]) for row in figures]).astype(np.float32)
            tables.setdefault(part, {})[measure] = Table(sums, figures[0][0].value)
    return tables
