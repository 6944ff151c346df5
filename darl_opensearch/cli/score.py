"""``darl score``: score a pool."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON, bundle_argument
from darl_opensearch.pool.engine import EngineOptions
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.settings import FilePath, InputFile, setting
from darl_opensearch.settings.options import with_options


@click.command()
@bundle_argument
@click.argument("pairs", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def cli(
    bundle: Path,
    pairs: Path,
    out: FilePath | None = setting(None, "File for the scores: .jsonl, .jsonl.gz or .parquet.", env="DARL_SCORES"),
    features: FilePath | None = setting(
        None,
        "File for the features: .npy, one row per pair. Without --out only features are computed.",
        env="DARL_FEATURES",
    ),
    items: InputFile | None = setting(
        None, "Items that PAIRS refers to by id: .jsonl, .jsonl.gz or .parquet.", env="DARL_ITEMS"
    ),
    engine: EngineOptions = setting(..., "the engine"),
    provider: Provider = setting(
        "cpu", "Where the graphs run; cuda fails if there is no usable GPU.", env="DARL_PROVIDER"
    ),
    threads: int | None = setting(
        None,
        "Batches scored in parallel.  [default: the cores available to this process; 1 per Ray worker]",
        least=1,
        env="DARL_THREADS",
    ),
    int8: bool = setting(False, "Score with the quantised graph.", env="DARL_INT8"),
    shard_pairs: int = setting(
        2048,
        "Pairs per shard; bounds memory use and the work lost when a run is killed.",
        least=1,
        most=1_000_000,
        env="DARL_SHARD_PAIRS",
    ),
    fresh: bool = setting(False, "Discard unfinished work and overwrite existing results."),
    as_json: bool = JSON,
) -> None:
    """Score or embed PAIRS with BUNDLE.

    PAIRS is JSONL, .jsonl.gz or Parquet: {"query", "item_id"} with --items, {"query", "text"}, or {"query",
    "items": […]}. The whole pool is checked first. Finished shards are kept in NAME.work next to the result, from
    which the same command resumes a killed run.
    """
    from darl_opensearch.pool import score_pool

    # Ray tells of workers that died by printing; stdout is for the result.
    with progress_line("reading") as line, contextlib.redirect_stdout(sys.stderr):
        report = score_pool(
            bundle, pairs, out=out, features=features, items=items, provider=provider, threads=threads,
            int8=int8, shard_pairs=shard_pairs, fresh=fresh, on_progress=line.report, **vars(engine),
        )  # fmt: skip
    if report.without_text:
        many = "s" * (report.without_text > 1)
        note(f"warning: passed over: {report.without_text:,} item{many} without text, which no pair names")
    results = " and ".join(name for name in (report.out, report.features) if name)
    text = f"{report.pairs:,} pairs: {results}"
    if report.reused:
        text += f" ({report.reused:,} of {report.shards:,} shards from an earlier run)"
    emit(report.to_json(), as_json=as_json, text=text)
