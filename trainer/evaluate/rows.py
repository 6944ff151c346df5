"""The rows of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from darl_opensearch.stats.auroc import Distances, auroc_interval
from darl_opensearch.stats.bootstrap import Resampled, resample
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.numbers import rounded
from darl_opensearch.stats.paired import paired
from trainer.evaluate.depth import Candidates, reranked
from trainer.evaluate.measured import Measured, Scale, measure, measure_rankings
from trainer.evaluate.parts import Part
from trainer.evaluate.settings import Settings
from trainer.evaluate.systems import Ratings, System

Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """A system's answers on one part.

    :param judged: of the judged pairs, in the part's order.
    :param scores: of every item that was scored, by query id and item id.
    """

    judged: Ratings
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measurements:
    """Everything that was scored, and how it is measured.

    :param systems: the evaluated models, then what they are compared with.
    :param evaluated: how many of them are evaluated.
    :param parts: judged parts, ``id`` first.
    :param scored: by system and part.
    :param candidates: the first stage's items by part; empty: no sweep.
    """

    settings: Settings
    scale: Scale
    systems: Sequence[System]
    evaluated: int
    parts: Sequence[Part]
    scored: Mapping[tuple[str, str], Scored]
    candidates: Mapping[str, Candidates]

    @cached_property
    def found(self) -> dict[tuple[str, str], Measured]:
        """Figures by system and part."""
        return {key: measure(self._part(key[1]), one.judged, self.scale) for key, one in self.scored.items()}

    @cached_property
    def drawn(self) -> dict[tuple[str, str], dict[str, Resampled]]:
        """The same, resampled; each part on its own, all systems alike."""
        return {key: self.resampled(key[1], found) for key, found in self.found.items()}

    def resampled(self, part: str, found: Measured) -> dict[str, Resampled]:
        """Resample some figures of a part.

        :param found: figures of its queries, or some of them.
        :return: the figures in every resample.
        """
        return resample(found.figures, draws=self.settings.draws, seed=self.seed(part))

    def seed(self, part: str) -> list[int]:
        """Seed of a part's resampling.

        :return: the settings' seed and the part's place.
        """
        return [self.settings.seed, [one.name for one in self.parts].index(part)]

    def _part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


def figures(of: Measurements) -> list[Row]:
    """Every system on every part.

    :return: rows with ``figures``, and of models with ``confusion`` and ``reliability``.
    """
    rows = []
    for (system, part), found in of.found.items():
        row = {"system": system, "part": part, "queries": found.queries, "pairs": found.pairs}
        row["figures"] = _intervals(of.drawn[system, part])
        if found.grading is not None:
            row["confusion"] = found.grading.confusion().tolist()
            row["reliability"] = [
                {name: rounded(value) for name, value in one.items()} for one in found.grading.reliability()
            ]
        rows.append(row)
    return rows


def slices(of: Measurements) -> list[Row]:
    """Every system on every slice of every part that names any.

    :return: rows with ``slice`` and ``figures``.
    """
    rows: list[Row] = []
    for (system, name), scored in of.scored.items():
        part = next(part for part in of.parts if part.name == name)
        names = np.array(part.slices)
        for one in sorted(set(part.slices)) if any(part.slices) else []:
            found = measure(part, scored.judged, of.scale, rows=np.flatnonzero(names == one))
            rows.append(
                {
                    "system": system, "part": name, "slice": one, "queries": found.queries, "pairs": found.pairs,
                    "figures": _intervals(of.resampled(name, found)),
                }
            )  # fmt: skip
    return rows


def gaps(of: Measurements) -> list[Row]:
    """Every figure of ``id`` less that of each other part; either is resampled on its own.

    :return: rows with ``figures``.
    """
    rows = []
    known, *others = (part.name for part in of.parts)
    for system in of.systems:
        mine = of.drawn[system.name, known]
        for part in others:
            theirs = of.drawn[system.name, part]
            gap = {name: mine[name].minus(theirs[name]) for name in mine}
            rows.append({"system": system.name, "part": part, "figures": _intervals(gap)})
    return rows


def comparisons(of: Measurements) -> list[Row]:
    """Every evaluated model against everything that it is to be compared with; one family of claims.

    :return: rows with the mean difference, its interval, ``p`` and ``p_holm``.
    """
    rows: list[Row] = []
    for system in of.systems[: of.evaluated]:
        for against in of.systems[of.evaluated :]:
            for part in of.parts:
                mine, theirs = (of.found[one.name, part.name].by_query for one in (system, against))
                for figure in (name for name in mine if name in theirs):
                    row = {"system": system.name, "against": against.name, "part": part.name, "figure": figure}
                    claim = paired(mine[figure], theirs[figure], draws=of.settings.draws, seed=of.settings.seed)
                    rows.append(row | claim.interval.to_json() | {"p": claim.p})
    adjusted = holm({place: row["p"] for place, row in enumerate(rows)})
    return [row | {"p": rounded(row["p"]), "p_holm": rounded(adjusted[place])} for place, row in enumerate(rows)]


def aurocs(of: Measurements) -> list[Row]:
    """How well each model's ``ood_distance`` tells each other part from ``id``.

    :return: rows with the area and its interval.
    """
    rows = []
    for system in of.systems:
        known, *others = ((part, of.scored[system.name, part.name].judged.ood_distance) for part in of.parts)
        for part, distance in others:
            if distance is None or known[1] is None:
                continue
            area = auroc_interval(
                Distances(known[1], known[0].query_index, known[0].n_queries),
                Distances(distance, part.query_index, part.n_queries),
                draws=of.settings.draws,
                seeds=(of.seed(known[0].name), of.seed(part.name)),
            )
            rows.append({"system": system.name, "part": part.name} | area.to_json())
    return rows


def swept(of: Measurements) -> dict[tuple[str, str, int], dict[str, list[str]]]:
    """Rerank the first stage's lists to every depth.

    :return: by system, part and depth, each query's items, best first; empty without a first stage.
    """
    runs = {}
    for system in (system for system in of.systems if system.grades and of.candidates):
        for part in of.parts:
            scores = of.scored[system.name, part.name].scores
            for depth in sorted({0, *of.settings.depths}):
                runs[system.name, part.name, depth] = {
                    query_id: reranked(ids, np.array([scores[query_id][item_id] for item_id in ids]), depth)
                    for query_id, ids in of.candidates[part.name].items()
                }
    return runs


def depths(of: Measurements, runs: Mapping[tuple[str, str, int], Mapping[str, Sequence[str]]]) -> list[Row]:
    """Measure the sweep.

    :param runs: what :func:`swept` gives.
    :return: rows with ``figures``, and ``gain``: the paired difference to the first stage.
    """
    rows: list[Row] = []
    base: Measured | None = None
    for (system, name, depth), ranked in runs.items():
        part = next(part for part in of.parts if part.name == name)
        found = measure_rankings(part, ranked, of.scale)
        base = found if depth == 0 or base is None else base
        rows.append(
            {
                "system": system, "part": name, "depth": depth,
                "queries_without_items": sum(not ids for ids in ranked.values()),
                "figures": _intervals(of.resampled(name, found)),
                "gain": _gain(of.settings, base, found) if depth else {},
            }
        )  # fmt: skip
    return rows


def _gain(settings: Settings, base: Measured, found: Measured) -> Row:
    gains = {}
    for name, values in found.by_query.items():
        claim = paired(values, base.by_query[name], draws=settings.draws, seed=settings.seed)
        gains[name] = claim.interval.to_json() | {"p": rounded(claim.p)}
    return gains


def _intervals(values: Mapping[str, Resampled]) -> Row:
    return {name: one.interval().to_json() for name, one in values.items()}
