"""``darl evaluate``: score judged parts, measure and compare systems, and return one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import UsageError, load
from darl_opensearch.io.digest import digest_file
from darl_opensearch.io.jsonl import check_rereadable
from darl_opensearch.records.items import Item
from darl_opensearch.text import ItemRenderer
from darl_opensearch.version import __version__
from trainer.evaluate import depth, rows
from trainer.evaluate.measured import Scale, rank_judged
from trainer.evaluate.parts import JudgedPart, read_catalogue, read_part
from trainer.evaluate.rows import Measurements, Rankings
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.scoring import Report, make_names_unique, score_parts
from trainer.evaluate.settings import EvaluationOptions
from trainer.evaluate.systems import (
    BM25,
    COSINE,
    INT8,
    Bm25System,
    BundleSystem,
    CosineSystem,
    RunSystem,
    System,
    TrecSystem,
    check_scales,
    open_bundle,
    open_run,
    open_trec,
)

FORMAT = 1
Model = BundleSystem | RunSystem


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's results.

    :param runs: each query's ranking, by system, part and rerank depth (None: judged items only).
    """

    result: dict[str, Any]
    parts: tuple[JudgedPart, ...]
    runs: dict[tuple[str, str, int | None], Rankings]


def evaluate(
    settings: EvaluationOptions,
    *,
    report: Report = lambda what, done, total: None,
    score_cache: ScoreCache | None = None,
) -> Evaluation:
    """Evaluate models on judged parts.

    :param report: called with the step's name, steps done and steps in all.
    :param score_cache: scores of bundles to reuse and extend; None: no caching.
    :raises DarlError: for input that cannot be read, scored or compared.
    """
    load("ir_measures", "train")  # before minutes of scoring, not after
    for path in (*settings.items, *(path for _, path in settings.parts), *filter(None, [settings.first_stage])):
        check_rereadable(path)  # every model reads each file, and so does its digest
    report("opening", 0, 1)
    blank: Counter[str] = Counter()
    with ExitStack() as stack:

        def open_model(path: Path, *, int8: bool = settings.int8) -> Model:
            def catalogue(renderer: ItemRenderer) -> Mapping[str, Item]:
                return read_catalogue(settings.items, renderer, blank)

            if (path / "config.json").is_file():  # a training run; anything else must be a bundle
                return open_run(path, catalogue)
            system = open_bundle(
                path,
                catalogue,
                int8=int8,
                provider=settings.provider,
                threads=settings.threads,
                score_cache=score_cache,
            )
            stack.callback(system.scorer.close)
            return system

        models = [open_model(path) for path in settings.models]
        index = Bm25Index((item.item_id, item.text) for item in models[0].items.values())
        opponents = [_open_opponent(word, models[0], index, open_model) for word in settings.against]
        check_scales([*models, *(opponent for opponent in opponents if isinstance(opponent, BundleSystem | RunSystem))])
        return _measure(_score(settings, models, opponents, index, blank, report), models[0], blank, report)


def _open_opponent(word: str, lead: Model, index: Bm25Index, open_model: Callable[..., Model]) -> System:
    if word == BM25:
        return Bm25System(index, len(lead.items))
    if word == COSINE:
        if not isinstance(lead, BundleSystem) or lead.bundle.card.backbone != "split":
            raise UsageError(
                f"{lead.name} has no separate query and item embeddings for a cosine", where=f"--against {COSINE}",
                todo="name a bundle with the split backbone first, or compare with bm25",
            )  # fmt: skip
        return CosineSystem(lead.bundle, lead.items)
    if word == INT8:
        if not isinstance(lead, BundleSystem):
            raise UsageError(
                f"{lead.name} is a run and has no quantised graph", where=f"--against {INT8}",
                todo="name its bundle first",
            )  # fmt: skip
        return open_model(lead.model.path, int8=True)
    path = Path(word)
    if path.is_dir():
        return open_model(path)
    if not path.is_file():
        raise UsageError(
            f"{word!r} is neither a bundle nor a run file", where="--against",
            todo=f"name a folder, a TREC run file, {COSINE}, {BM25} or {INT8}",
        )  # fmt: skip
    return open_trec(path)


def _score(
    settings: EvaluationOptions, models: Sequence[Model], opponents: Sequence[System], index: Bm25Index,
    blank: Counter[str], report: Report,
) -> Measurements:  # fmt: skip
    lead = models[0]
    gains = lead.model.scale.gains
    scale = Scale.of(gains, settings.cutoffs, settings.relevant_from, where="--relevant-from")
    parts = [
        read_part(name, path, lead.items, len(gains), seed=settings.seed, blank=blank) for name, path in settings.parts
    ]
    systems = make_names_unique([*models, *opponents])
    candidates = _candidates(settings, parts, index, lead.items, blank, scale)
    scored = score_parts(systems, parts, report, candidates=candidates)
    by_name = {part.name: part for part in parts}
    return Measurements(settings, scale, systems, len(models), by_name, scored, candidates)


def _candidates(
    settings: EvaluationOptions, parts: Sequence[JudgedPart], index: Bm25Index, items: Mapping[str, Item],
    blank: Collection[str], scale: Scale,
) -> dict[str, depth.Candidates]:  # fmt: skip
    if not settings.depths:
        return {}
    size = max(*settings.depths, *scale.cutoffs)  # the first stage's own figures need that many as well
    if settings.first_stage is not None:
        return depth.read_first_stage(parts, settings.first_stage, items, size, blank)
    return depth.retrieve(parts, index, size)


def _measure(of: Measurements, lead: Model, blank: Mapping[str, int], report: Report) -> Evaluation:
    report("measuring", 0, 1)
    settings, scale = of.settings, lead.model.scale
    at_depths = rows.rerank_to_depths(of)
    result = {
        "format": FORMAT,
        "darl": __version__,
        "seed": settings.seed,
        "draws": settings.draws,
        "cutoffs": list(of.scale.cutoffs),
        "relevant_from": settings.relevant_from,
        "grades": [{"name": name, "gain": gain} for name, gain in zip(scale.names, scale.gains, strict=True)],
        "items": [{"path": str(path), "sha256": digest_file(path)} for path in settings.items],
        "parts": [_about_part(part, scale.k) for part in of.parts.values()],
        "without_text": dict(sorted(blank.items())),
        "joined": _joined(of, blank),
        "systems": [
            {"name": system.name, "evaluated": place < of.evaluated, **system.about()}
            for place, system in enumerate(of.systems)
        ],
        "figures": rows.figure_rows(of),
        "slices": rows.slice_rows(of),
        "gaps": rows.gap_rows(of),
        "comparisons": rows.comparison_rows(of),
        "auroc": rows.auroc_rows(of),
        "flagged": rows.flagged_rows(of),
        "first_stage": _about_first_stage(settings) if of.candidates else None,
        "depths": rows.depth_rows(of, at_depths),
    }
    runs: dict[tuple[str, str, int | None], Rankings] = {
        (system, part, None): rank_judged(of.parts[part], scored.judged) for (system, part), scored in of.scored.items()
    }
    return Evaluation(result, tuple(of.parts.values()), runs | dict(at_depths))


def _joined(of: Measurements, blank: Mapping[str, int]) -> list[dict[str, Any]]:
    """Count what was matched wherever two files were joined by ids."""
    pairs = sum(map(len, of.parts.values()))
    joined = [{"what": "judgments with the items", "matched": pairs, "unmatched": sum(blank.values())}]
    for (system, part), scored in of.scored.items():
        if any(isinstance(one, TrecSystem) and one.name == system for one in of.systems):
            ranked = int(np.isfinite(scored.judged.score).sum())
            what = f"judged pairs of {part} with the run {system}"
            joined.append({"what": what, "matched": ranked, "unmatched": len(of.parts[part]) - ranked})
    if of.settings.first_stage is not None:
        for part, candidates in of.candidates.items():
            found = sum(map(bool, candidates.values()))
            what = f"queries of {part} with the first stage's run"
            joined.append({"what": what, "matched": found, "unmatched": len(candidates) - found})
    return joined


def _about_part(part: JudgedPart, k: int) -> dict[str, Any]:
    return {
        "name": part.name, "path": str(part.path), "sha256": part.sha256, "queries": part.n_queries,
        "pairs": len(part), "grades": np.bincount(part.grades, minlength=k).tolist(),
    }  # fmt: skip


def _about_first_stage(settings: EvaluationOptions) -> dict[str, Any]:
    if settings.first_stage is None:
        return {"kind": BM25}
    return {"kind": "trec", "path": str(settings.first_stage), "sha256": digest_file(settings.first_stage)}
