"""Ranking metrics, computed by ir-measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from darl_opensearch.errors import load

MOST_STEPS = 1_000_000  # trec_eval keeps a counter for each level of relevance


def to_whole_gains(gains: Sequence[float]) -> tuple[int, ...]:
    """Multiply gains so that all are whole numbers, as trec_eval requires.

    nDCG is a ratio of sums of gains, so a common factor changes nothing. Gains that no factor up to
    ``MOST_STEPS`` makes whole are rounded to millionths of the highest.

    :param gains: of each grade, at least 0; read as decimals: 0.1 is a tenth.
    """
    exact = [Fraction(repr(float(gain))) for gain in gains]
    factor = math.lcm(*(gain.denominator for gain in exact))
    whole = [int(gain * factor) for gain in exact]
    common = math.gcd(*whole) or 1
    whole = [gain // common for gain in whole]
    if max(whole) > MOST_STEPS:
        whole = [round(gain * MOST_STEPS / max(exact)) for gain in exact]
    return tuple(whole)


def rank_figures(
    rankings: Mapping[str, Sequence[str]],
    grades: Mapping[str, Mapping[str, int]],
    gains: Sequence[float],
    *,
    cutoffs: Sequence[int],
    relevant_from: int,
) -> dict[str, dict[str, float]]:
    """Measure rankings query by query.

    Unjudged items have gain 0, whatever the gain of grade 0, and are not relevant. Left out are queries without any
    gain from nDCG (they have no ideal order), queries without a relevant item from P, AP and RR, and queries without
    retrieved items from ``judged@c``; in the other metrics the latter count as 0.

    :param grades: by query and judged item; each of these queries is measured.
    :param relevant_from: lowest grade that counts as relevant in binary metrics.
    :return: ``ndcg@c``, ``p@c``, ``judged@c``, ``ap`` and ``rr`` by query, without undefined values.
    :raises MissingExtra: without ir-measures.
    """
    measures = load("ir_measures", "train")
    table = dict(enumerate(to_whole_gains(gains)))
    wanted = {"ap": measures.AP(rel=relevant_from), "rr": measures.RR(rel=relevant_from)}
    for cutoff in cutoffs:
        wanted[f"ndcg@{cutoff}"] = measures.nDCG(gains=table) @ cutoff
        wanted[f"p@{cutoff}"] = measures.P(rel=relevant_from) @ cutoff
        wanted[f"judged@{cutoff}"] = measures.Judged @ cutoff
    names = {measure: name for name, measure in wanted.items()}
    # Scores that fall by one a rank: trec_eval would break ties by item id.
    run = {
        query_id: {item_id: float(len(items) - place) for place, item_id in enumerate(items)}
        for query_id, items in rankings.items()
        if items  # ir-measures 0.4.3 divides by their number
    }
    judged = {query_id: dict(by_item) for query_id, by_item in grades.items()}
    gainful = {q for q, by_item in judged.items() if any(gains[grade] > 0 for grade in by_item.values())}
    relevant = {q for q, by_item in judged.items() if any(grade >= relevant_from for grade in by_item.values())}
    values: dict[str, dict[str, float]] = {name: {} for name in sorted(wanted)}
    for metric in measures.iter_calc(list(wanted.values()), judged, run):
        name = names[metric.measure]
        allowed = gainful if name.startswith("ndcg") else run if name.startswith("judged") else relevant
        if metric.query_id in allowed:
            values[name][metric.query_id] = float(metric.value)
    return values
