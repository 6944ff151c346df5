"""Scoring a pool: check it, compute missing shards, join them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import CARD, MODEL_INT8, Bundle
from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.io.jsonl import check_rereadable
from darl_opensearch.io.reading import reading
from darl_opensearch.io.writing import new_file
from darl_opensearch.pool.catalogue import ItemTexts
from darl_opensearch.pool.engine import Engine, EngineOptions
from darl_opensearch.pool.formats import NPY, choose_format, join_features, join_scores
from darl_opensearch.pool.source import PairSource
from darl_opensearch.pool.work import ShardFolder
from darl_opensearch.pool.worker import FEATURES, SCORES, PoolJob, ShardScorer
from darl_opensearch.scoring import Provider

OnProgress = Callable[[str, int, int | None], None]
SHARD_PAIRS = 2048
# No tokenizer in use has more characters per token, so later characters cannot reach the model.
_MOST_CHARS_PER_TOKEN = 64


@dataclass(frozen=True)
class PoolReport:
    """Outcome of scoring a pool.

    :param reused: shards that an earlier, interrupted run had finished.
    :param out: file of scores, or None.
    :param features: file of features, or None.
    :param without_text: items without text, which no pair names.
    """

    pairs: int
    shards: int
    reused: int
    out: str | None
    features: str | None
    feature_width: int | None
    without_text: int = 0

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return dict(vars(self))


def score_pool(
    bundle: str | os.PathLike[str],
    pairs: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    items: str | os.PathLike[str] | None = None,
    engine: Engine = "local",
    provider: Provider = "cpu",
    threads: int | None = None,
    int8: bool = False,
    shard_pairs: int = SHARD_PAIRS,
    address: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
    on_progress: OnProgress | None = None,
) -> PoolReport:
    """Score or embed a pool of any size.

    The whole pool is checked first, then computed shard by shard into a working folder beside the result
    (``NAME.work``). After any interruption the same call resumes after the last finished shard and writes the same
    bytes. Memory is bounded by the shard, not by the pool or the catalogue.

    :param pairs: the pool, JSONL (plain or ``.gz``) or Parquet; for its rows see
        :func:`darl_opensearch.pool.pairs.read_pairs`.
    :param out: file for scores, ``.jsonl``, ``.jsonl.gz`` or ``.parquet``: one row per pair, in order.
    :param features: file for the rows of ``features.onnx``: ``.npy``, ``[pairs, h]`` float32, in the same order.
    :param items: items to look ids up in, JSONL (plain or ``.gz``) or Parquet.
    :param engine: ``local``, or ``ray`` for many machines.
    :param provider: ``cpu`` or ``cuda``, without falling back to the CPU.
    :param threads: parallel batches; by default one per core, and 1 for each Ray worker.
    :param int8: score with the quantised graph; features always come from the fp32 one.
    :param address: a running Ray cluster; None starts Ray on this machine.
    :param workers: Ray workers; by default as many as the cluster has room for.
    :param fresh: discard unfinished work and overwrite existing results.
    :param on_progress: called with the activity, the pairs done, and the total if known.
    :raises UsageError: for options that contradict each other.
    :raises InputError: for an invalid pool or item file, or unfinished work on other inputs.
    :raises MissingExtra: without the extra that the engine or a format needs.
    """
    options = EngineOptions(engine=engine, address=address, workers=workers)
    if shard_pairs < 1:
        raise UsageError("--shard-pairs must be at least 1", todo="use 1 or more")
    opened = Bundle.open(bundle)
    results = _results(out, features, inputs=[Path(path) for path in (pairs, items) if path is not None])
    job = PoolJob(
        bundle=opened.path.absolute(),
        digest=digest_file(opened.path / CARD),
        scores=choose_format(results[SCORES]) if SCORES in results else None,
        features=FEATURES in results,
        provider=provider,
        threads=threads,
        int8=int8 and SCORES in results,
    )
    if job.int8 and not opened.has_states(int8=True):
        opened.file(MODEL_INT8)
    made_of = {
        "pairs": _digest(Path(pairs)),
        "items": _digest(Path(items)) if items is not None else None,
        "bundle": job.digest,
        "scores": job.scores,
        "features": job.features,
        "shard_pairs": shard_pairs,
        "int8": job.int8,
        "provider": provider,
    }
    report = on_progress or (lambda what, done, total: None)
    with ShardFolder.claim(_work_folder(results, fresh=fresh), made_of, job.parts, fresh=fresh) as work:
        source = PairSource(
            pairs=Path(pairs),
            items=Path(items) if items is not None else None,
            catalogue=work.catalogue.absolute() if items is not None else None,
            shard_pairs=shard_pairs,
            most_chars=opened.card.item_cap * opened.card.template.chunks * _MOST_CHARS_PER_TOKEN,
        )
        try:
            count = _check(source, work, opened, report)
        except DarlError:  # nothing was computed; a leftover folder would let the next run replace results unasked
            work.remove()
            raise
        without_text = 0
        if source.catalogue is not None:
            with ItemTexts.open(source.catalogue) as catalogue:
                without_text = catalogue.count_without_text()
        shards = -(-count // shard_pairs)
        done = work.finished(shards)
        stored = set(done)

        def store(shard: int, files: Mapping[str, bytes]) -> None:
            work.store(shard, files)
            stored.add(shard)
            report("scoring", min(len(stored) * shard_pairs, count), count)

        if len(done) < shards:
            if engine == "ray":
                from darl_opensearch.pool.on_ray import run_on_ray

                # Ray's tasks run in other folders.
                absolute = dataclasses.replace(source, pairs=source.pairs.absolute())
                job = dataclasses.replace(job, threads=threads or 1)
                run_on_ray(
                    functools.partial(absolute.shards, frozenset(done)), functools.partial(ShardScorer, job), store,
                    options, provider=provider, threads=threads or 1,
                )  # fmt: skip
            else:
                with contextlib.closing(ShardScorer(job)) as scorer:
                    for shard in source.shards(done):
                        store(shard.index, scorer(shard))
        if work.finished(shards) != set(range(shards)) or _digest(source.pairs) != made_of["pairs"]:
            raise InputError("the file changed during scoring", where=str(pairs), todo="start over with --fresh")
        width = _join(results, work, job, shards)
        work.remove()
    return PoolReport(
        pairs=count,
        shards=shards,
        reused=len(done),
        out=str(results[SCORES]) if SCORES in results else None,
        features=str(results[FEATURES]) if FEATURES in results else None,
        feature_width=width,
        without_text=without_text,
    )


def _results(
    out: str | os.PathLike[str] | None, features: str | os.PathLike[str] | None, *, inputs: Sequence[Path]
) -> dict[str, Path]:
    """List the result files by part."""
    results = {name: Path(path) for name, path in ((SCORES, out), (FEATURES, features)) if path is not None}
    if not results:
        raise UsageError("no output is requested", todo="pass --out for scores, --features for features")
    if FEATURES in results and results[FEATURES].suffix != NPY:
        raise UsageError("features are written as .npy", where=str(features), todo="use that extension")
    resolved_inputs = {path.resolve() for path in inputs}
    for path in results.values():
        if path.resolve() in resolved_inputs:
            raise UsageError("the output would overwrite an input", where=str(path), todo="choose another")
    return results


def _work_folder(results: Mapping[str, Path], *, fresh: bool) -> Path:
    """Name the working folder, beside the first result, and refuse to overwrite results."""
    first = next(iter(results.values()))
    folder = first.with_name(f"{first.name}.work")
    for path in results.values():
        if path.exists() and not fresh and not folder.exists():
            raise UsageError(
                "the file already exists", where=str(path), todo="choose another, or overwrite it with --fresh"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
    return folder


def _check(source: PairSource, work: ShardFolder, bundle: Bundle, report: OnProgress) -> int:
    """Read the whole pool once, so that errors show before hours of scoring; return the number of pairs."""
    if source.catalogue is not None and source.items is not None and not source.catalogue.is_file():
        report("indexing items", 0, None)
        ItemTexts.build(source.catalogue, source.items, bundle.card.template, most_chars=source.most_chars)
    if (count := work.pairs()) is not None:
        return count
    count = 0
    for shard in source.shards():
        count = shard.start + len(shard.pairs)
        report("checking", count, None)
    if not count:
        raise InputError("it holds no pairs", where=str(source.pairs), todo="write one JSON object per line")
    work.checked(count)
    return count


def _join(results: Mapping[str, Path], work: ShardFolder, job: PoolJob, shards: int) -> int | None:
    """Join the shards to the result files; return the width of the features, or None."""
    width = None
    for part, path in results.items():
        files = [work.path(part, shard) for shard in range(shards)]
        with new_file(path, fixed_name=True) as unfinished, unfinished.open("wb") as file:
            if part == FEATURES:
                _, width = join_features(files, file)
            elif job.scores is not None:
                join_scores(files, file, job.scores)
    return width


def _digest(path: Path) -> str:
    check_rereadable(path)
    with reading(path):
        return digest_file(path)
