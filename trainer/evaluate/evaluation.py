"""``darl evaluate``: read, score, measure, compare, and say it all in one JSON object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import sha256_of
from darl_opensearch.errors import UsageError, load
from darl_opensearch.io.jsonl import check_rereadable
from darl_opensearch.text import ItemRenderer
from darl_opensearch.version import __version__
from trainer.data.judgments import Item
from trainer.evaluate import depth, rows
from trainer.evaluate.kept_scores import KeptScores
from trainer.evaluate.measured import Scale, rankings
from trainer.evaluate.parts import Part, read_catalogue, read_part
from trainer.evaluate.rows import Measurements, Scored
from trainer.evaluate.settings import Settings
from trainer.evaluate.systems import (
    BM25,
    COSINE,
    INT8,
    Ask,
    Bm25System,
    BundleSystem,
    CosineSystem,
    Ratings,
    RunSystem,
    System,
    check_scales,
    open_bundle,
    open_run,
    open_trec,
)

FORMAT = 1
Report = Callable[[str, int, int], object]
Model = BundleSystem | RunSystem


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    :param result: JSON-ready, as ``evaluation.json`` holds it.
    :param runs: by system, part and rerank depth (None: the judged items alone), the ranking of each query.
    """

    result: dict[str, Any]
    parts: tuple[Part, ...]
    runs: dict[tuple[str, str, int | None], dict[str, list[str]]]


def evaluate(
    settings: Settings, *, report: Report = lambda what, done, total: None, kept: KeptScores | None = None
) -> Evaluation:
    """Evaluate models on judged parts.

    :param report: called with what is being done, steps done and steps in all.
    :param kept: where the bundles' scores are kept and looked up; None: they are not.
    :raises DarlError: naming what cannot be read, scored or compared.
    """
    load("ir_measures", "train")  # before minutes of scoring, not after
    for path in (*settings.items, *(path for _, path in settings.parts), *filter(None, [settings.first_stage])):
        check_rereadable(path)  # each is read by every model, and for its digest
    report("opening", 0, 1)
    opened: list[Model] = []
    try:
        for path in settings.models:
            opened.append(_open(path, settings, kept))
        lead = opened[0]
        index = Bm25Index((item.item_id, item.text) for item in lead.items.values())
        others: list[System] = []
        for word in settings.against:
            others.append(other := _opponent(word, settings, lead, index, kept))
            if isinstance(other, BundleSystem | RunSystem):
                opened.append(other)
        check_scales(opened)
        return _result(_score_all(settings, opened[: len(settings.models)], others, index, report), lead, report)
    finally:
        for system in opened:
            if isinstance(system, BundleSystem):
                system.scorer.close()


def _open(path: Path, settings: Settings, kept: KeptScores | None, *, int8: bool | None = None) -> Model:
    def catalogue(renderer: ItemRenderer) -> Mapping[str, Item]:
        return read_catalogue(settings.items, renderer)

    if (path / "config.json").is_file():  # a training run; anything else is a bundle, or says that it is none
        return open_run(path, catalogue)
    int8 = settings.int8 if int8 is None else int8
    return open_bundle(path, catalogue, int8=int8, provider=settings.provider, threads=settings.threads, kept=kept)


def _opponent(word: str, settings: Settings, lead: Model, index: Bm25Index, kept: KeptScores | None) -> System:
    if word == BM25:
        return Bm25System(index, len(lead.items))
    if word == COSINE:
        if not isinstance(lead, BundleSystem) or lead.bundle.card.backbone != "split":
            raise UsageError(
                f"{lead.name} has no pooled halves to take a cosine of", where=f"--against {COSINE}",
                todo="name a bundle with the split backbone first, or compare with bm25",
            )  # fmt: skip
        return CosineSystem(lead.bundle, lead.items)
    if word == INT8:
        if not isinstance(lead, BundleSystem):
            raise UsageError(
                f"{lead.name} is a run and has no quantised graph", where=f"--against {INT8}",
                todo="name its bundle first",
            )  # fmt: skip
        return _open(lead.model.path, settings, kept, int8=True)
    path = Path(word)
    if path.is_dir():
        return _open(path, settings, kept)
    if not path.is_file():
        raise UsageError(
            f"there is neither a bundle nor a run file {word!r}", where="--against",
            todo=f"name a folder, a TREC run file, {COSINE}, {BM25} or {INT8}",
        )  # fmt: skip
    return open_trec(path)


def _score_all(
    settings: Settings, models: Sequence[Model], others: Sequence[System], index: Bm25Index, report: Report
) -> Measurements:
    lead, k = models[0], models[0].model.scale.k
    if not 0 < settings.relevant_from < k:
        raise UsageError(
            f"grade {settings.relevant_from} does not part a scale of 0..{k - 1} in two", where="--relevant-from",
            todo=f"name a grade in 1..{k - 1}",
        )  # fmt: skip
    scale = Scale(lead.model.scale.gains, tuple(sorted(set(settings.cutoffs))), settings.relevant_from)
    parts = [read_part(name, path, lead.items, k, seed=settings.seed) for name, path in settings.parts]
    systems = _named([*models, *others])
    candidates = _candidates(settings, parts, index, lead.items, scale)
    total, done = len(systems) * sum(part.n_queries for part in parts), 0
    scored = {}
    for system in systems:
        for part in parts:

            def advance(queries: int, what: str = f"scoring {part.name} by {system.name}") -> None:
                nonlocal done
                done += queries
                report(what, done, total)

            scored[system.name, part.name] = _score(system, part, candidates.get(part.name, {}), advance)
    return Measurements(settings, scale, systems, len(models), parts, scored, candidates)


def _named(systems: Sequence[System]) -> list[System]:
    """Give two of the same name different ones: figures and files are found by it."""
    taken: set[str] = set()
    named = []
    for system in systems:
        name, number = system.name, 1
        while name in taken:
            number += 1
            name = f"{system.name}-{number}"
        taken.add(name)
        named.append(system if name == system.name else dataclasses.replace(system, name=name))  # type: ignore[type-var]
    return named


def _candidates(
    settings: Settings, parts: Sequence[Part], index: Bm25Index, items: Mapping[str, Item], scale: Scale
) -> dict[str, depth.Candidates]:
    if not settings.depths:
        return {}
    size = max(*settings.depths, *scale.cutoffs)  # the first stage's own figures need that many as well
    if settings.first_stage is not None:
        return depth.from_run(parts, settings.first_stage, items, size)
    return depth.from_index(parts, index, size)


def _score(system: System, part: Part, candidates: depth.Candidates, advance: Callable[[int], None]) -> Scored:
    """Score judged pairs and candidates in one pass: many of them are the same."""
    asks = []
    for query in part.queries:
        more = candidates.get(query.query_id, []) if system.grades else []
        asks.append(Ask(query.query_id, query.query, tuple(dict.fromkeys([*query.item_ids, *more]))))
    ratings = system.rate(asks, advance)
    judged = [some.rows(slice(0, len(q.item_ids))) for some, q in zip(ratings, part.queries, strict=True)]
    scores = {
        ask.query_id: dict(zip(ask.item_ids, some.score.tolist(), strict=True))
        for ask, some in zip(asks, ratings, strict=True)
    }
    return Scored(Ratings.join(judged), scores)


def _result(of: Measurements, lead: Model, report: Report) -> Evaluation:
    report("measuring", 0, 1)
    settings, scale = of.settings, lead.model.scale
    swept = rows.swept(of)
    result = {
        "format": FORMAT,
        "darl": __version__,
        "seed": settings.seed,
        "draws": settings.draws,
        "cutoffs": list(of.scale.cutoffs),
        "relevant_from": settings.relevant_from,
        "grades": [{"name": name, "gain": gain} for name, gain in zip(scale.names, scale.gains, strict=True)],
        "items": [{"path": str(path), "sha256": sha256_of(path)} for path in settings.items],
        "parts": [_about_part(part, scale.k) for part in of.parts],
        "systems": [
            {"name": system.name, "evaluated": place < of.evaluated, **system.about()}
            for place, system in enumerate(of.systems)
        ],
        "figures": rows.figures(of),
        "slices": rows.slices(of),
        "gaps": rows.gaps(of),
        "comparisons": rows.comparisons(of),
        "auroc": rows.aurocs(of),
        "first_stage": _about_first_stage(settings) if of.candidates else None,
        "depths": rows.depths(of, swept),
    }
    runs: dict[tuple[str, str, int | None], dict[str, list[str]]] = {
        (system.name, part.name, None): rankings(part, of.scored[system.name, part.name].judged)
        for system in of.systems
        for part in of.parts
    }
    return Evaluation(result, tuple(of.parts), runs | dict(swept))


def _about_part(part: Part, k: int) -> dict[str, Any]:
    return {
        "name": part.name, "path": str(part.path), "sha256": part.sha256, "queries": part.n_queries,
        "pairs": len(part), "grades": np.bincount(part.grades, minlength=k).tolist(),
    }  # fmt: skip


def _about_first_stage(settings: Settings) -> dict[str, Any]:
    if settings.first_stage is None:
        return {"kind": BM25}
    return {"kind": "trec", "path": str(settings.first_stage), "sha256": sha256_of(settings.first_stage)}
