"""Rows of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from darl_opensearch.stats.auroc import Distances, auroc_interval
from darl_opensearch.stats.bootstrap import Figure, Resampled, resample
from darl_opensearch.stats.flagged import flagged_figures
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.numbers import round_figure
from darl_opensearch.stats.paired import compare_paired
from trainer.evaluate.depth import Candidates, rerank
from trainer.evaluate.measured import Measured, Scale, measure, measure_rankings
from trainer.evaluate.parts import JudgedPart
from trainer.evaluate.scoring import ScoredPart
from trainer.evaluate.settings import EvaluationOptions
from trainer.evaluate.systems import System

Row = dict[str, Any]
Rankings = dict[str, list[str]]  # items by query id, best first


@dataclass(frozen=True)
class Measurements:
    """Scored parts, with their metrics and resamples.

    :param systems: the evaluated models, then the baselines.
    :param evaluated: number of evaluated models.
    :param parts: by name, ``id`` first.
    :param candidates: the first stage's items by part; empty: no depth sweep.
    """

    settings: EvaluationOptions
    scale: Scale
    systems: Sequence[System]
    evaluated: int
    parts: Mapping[str, JudgedPart]
    scored: Mapping[tuple[str, str], ScoredPart]
    candidates: Mapping[str, Candidates]

    @cached_property
    def measured(self) -> dict[tuple[str, str], Measured]:
        """Figures by system and part."""
        return {
            (system, part): measure(self.parts[part], scored.judged, self.scale)
            for (system, part), scored in self.scored.items()
        }

    @cached_property
    def resampled(self) -> dict[tuple[str, str], dict[str, Resampled]]:
        """Resampled figures; the resamples of a part are the same for all systems."""
        return {key: self.resample(key[1], measured.figures) for key, measured in self.measured.items()}

    def resample(self, part: str, figures: Mapping[str, Figure]) -> dict[str, Resampled]:
        """Resample figures of a part's queries, or of some of them."""
        return resample(figures, draws=self.settings.draws, seed=self.seed(part))

    def seed(self, part: str) -> list[int]:
        """Return the seed of a part's resampling: the settings' seed and the part's place."""
        return [self.settings.seed, list(self.parts).index(part)]


def figure_rows(of: Measurements) -> list[Row]:
    """Measure every system on every part.

    :return: rows with ``figures``, and for models ``confusion`` and ``reliability``.
    """
    rows = []
    for (system, part), measured in of.measured.items():
        row = {"system": system, "part": part, "queries": measured.queries, "pairs": measured.pairs}
        row["figures"] = _intervals(of.resampled[system, part])
        if measured.grading is not None:
            row["confusion"] = measured.grading.confusion().tolist()
            row["reliability"] = [
                {name: round_figure(value) for name, value in bin_.items()} for bin_ in measured.grading.reliability()
            ]
        rows.append(row)
    return rows


def slice_rows(of: Measurements) -> list[Row]:
    """Measure every system on every slice of the parts with slices."""
    rows: list[Row] = []
    for (system, name), scored in of.scored.items():
        part = of.parts[name]
        slices = np.array(part.slices)
        for slice_ in sorted(set(part.slices)) if any(part.slices) else []:
            measured = measure(part, scored.judged, of.scale, rows=np.flatnonzero(slices == slice_))
            rows.append(
                {
                    "system": system, "part": name, "slice": slice_, "queries": measured.queries,
                    "pairs": measured.pairs, "figures": _intervals(of.resample(name, measured.figures)),
                }
            )  # fmt: skip
    return rows


def gap_rows(of: Measurements) -> list[Row]:
    """Subtract each figure on other parts from that on ``id``; parts are resampled independently."""
    id_part, *other_parts = of.parts
    return [
        {
            "system": system.name, "part": part,
            "figures": _intervals({
                name: figure.minus(of.resampled[system.name, part][name])
                for name, figure in of.resampled[system.name, id_part].items()
            }),
        }
        for system in of.systems
        for part in other_parts
    ]  # fmt: skip


def comparison_rows(of: Measurements) -> list[Row]:
    """Compare every evaluated model with every baseline; p-values are adjusted over all comparisons (Holm).

    :return: rows with the mean difference, its interval, ``p`` and ``p_holm``.
    """
    rows: list[Row] = []
    for system in of.systems[: of.evaluated]:
        for against in of.systems[of.evaluated :]:
            for part in of.parts:
                values, opponent_values = (of.measured[side.name, part].compared for side in (system, against))
                for figure in (name for name in values if name in opponent_values):
                    row = {"system": system.name, "against": against.name, "part": part, "figure": figure}
                    claim = compare_paired(
                        values[figure], opponent_values[figure], draws=of.settings.draws, seed=of.settings.seed
                    )
                    rows.append(row | claim.interval.to_json() | {"p": claim.p})
    adjusted = holm({place: row["p"] for place, row in enumerate(rows)})
    return [
        row | {"p": round_figure(row["p"]), "p_holm": round_figure(adjusted[place])} for place, row in enumerate(rows)
    ]


def auroc_rows(of: Measurements) -> list[Row]:
    """Compute the AUROC of each model's ``ood_distance``, each other part against ``id``."""
    rows = []
    for system in of.systems:
        inside, *outside_parts = (_distances(part, of.scored[system.name, name]) for name, part in of.parts.items())
        id_part, *other_parts = of.parts
        for part, outside in zip(other_parts, outside_parts, strict=True):
            if inside is not None and outside is not None:
                seeds = of.seed(id_part), of.seed(part)
                area = auroc_interval(inside, outside, draws=of.settings.draws, seeds=seeds)
                rows.append({"system": system.name, "part": part} | area.to_json())
    return rows


def flagged_rows(of: Measurements) -> list[Row]:
    """Measure how wrong each model's grades of flagged pairs are, beside the others, on every part."""
    rows = []
    for (system, name), scored in of.scored.items():
        part, judged = of.parts[name], scored.judged
        if judged.grade_probs is not None and judged.is_ood is not None:
            figures = flagged_figures(judged.grade_probs, part.grades, judged.is_ood, part.query_index, part.n_queries)
            rows.append({
                "system": system, "part": name, "flagged": int(judged.is_ood.sum()), "pairs": len(part),
                "figures": _intervals(of.resample(name, figures)),
            })  # fmt: skip
    return rows


def _distances(part: JudgedPart, scored: ScoredPart) -> Distances | None:
    distance = scored.judged.ood_distance
    return None if distance is None else Distances(distance, part.query_index, part.n_queries)


def rerank_to_depths(of: Measurements) -> dict[tuple[str, str, int], Rankings]:
    """Rerank the first stage's lists to every depth.

    :return: by system, part and depth; empty without a first stage.
    """
    runs = {}
    for system in (system for system in of.systems if system.grades and of.candidates):
        for part in of.parts:
            scores = of.scored[system.name, part].scores
            for depth in sorted({0, *of.settings.depths}):
                runs[system.name, part, depth] = {
                    query_id: rerank(ids, np.array([scores[query_id][item_id] for item_id in ids]), depth)
                    for query_id, ids in of.candidates[part].items()
                }
    return runs


def depth_rows(of: Measurements, runs: Mapping[tuple[str, str, int], Rankings]) -> list[Row]:
    """Measure the rankings of :func:`rerank_to_depths`.

    :return: rows with ``figures``, and ``gain``: the paired difference to the first stage.
    """
    rows: list[Row] = []
    first_stage: dict[str, Any] = {}
    for (system, part, depth), rankings in runs.items():
        measured = measure_rankings(of.parts[part], rankings, of.scale)
        if depth == 0:
            first_stage = measured.compared
        gains = {}
        for name, values in measured.compared.items() if depth else ():
            claim = compare_paired(values, first_stage[name], draws=of.settings.draws, seed=of.settings.seed)
            gains[name] = claim.interval.to_json() | {"p": round_figure(claim.p)}
        rows.append(
            {
                "system": system, "part": part, "depth": depth,
                "queries_without_items": sum(not ids for ids in rankings.values()),
                "figures": _intervals(of.resample(part, measured.figures)), "gain": gains,
            }
        )  # fmt: skip
    return rows


def _intervals(figures: Mapping[str, Resampled]) -> Row:
    return {name: figure.interval().to_json() for name, figure in figures.items()}
