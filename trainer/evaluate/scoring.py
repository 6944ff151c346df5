"""Scoring of judged parts, in one pass per system and part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainer.evaluate.depth import Candidates
from trainer.evaluate.parts import JudgedPart
from trainer.evaluate.systems import RatingRequest, Ratings, System

Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class ScoredPart:
    """A system's output on one part.

    :param judged: ratings of the judged pairs, in the part's order.
    :param scores: of all scored items, candidates included, by query id and item id.
    """

    judged: Ratings
    scores: dict[str, dict[str, float]]


def score_parts(
    systems: Sequence[System],
    parts: Sequence[JudgedPart],
    report: Report,
    *,
    candidates: Mapping[str, Candidates] | None = None,
) -> dict[tuple[str, str], ScoredPart]:
    """Score every part with every system.

    :param candidates: items of a first stage by part, which models score as well.
    :return: by names of system and part.
    """
    total, done = len(systems) * sum(part.n_queries for part in parts), 0
    scored = {}
    for system in systems:
        for part in parts:
            candidates_of = (candidates or {}).get(part.name, {}) if system.grades else {}
            # Judged pairs and candidates in one pass, since they overlap.
            requests = [
                RatingRequest(
                    q.query_id, q.query, tuple(dict.fromkeys([*q.item_ids, *candidates_of.get(q.query_id, [])]))
                )
                for q in part.queries
            ]
            judged, scores = [], {}
            for query, request, ratings in zip(part.queries, requests, system.rate(requests), strict=True):
                judged.append(ratings.rows(slice(0, len(query.item_ids))))
                scores[request.query_id] = dict(zip(request.item_ids, ratings.score.tolist(), strict=True))
                done += 1
                report(f"scoring {part.name} by {system.name}", done, total)
            scored[system.name, part.name] = ScoredPart(Ratings.join(judged), scores)
    return scored


def make_names_unique(systems: Sequence[System]) -> list[System]:
    """Number repeated names, which identify figures and files."""
    used_names: set[str] = set()
    named = []
    for system in systems:
        name, number = system.name, 1
        while name in used_names:
            number += 1
            name = f"{system.name}-{number}"
        used_names.add(name)
        named.append(system if name == system.name else dataclasses.replace(system, name=name))  # type: ignore[type-var]
    return named
