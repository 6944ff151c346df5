"""``darl score``: a pool through a bundle."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Literal

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON, bundle_argument
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
    out: FilePath | None = setting(None, "Where scores go: .jsonl, .jsonl.gz or .parquet.", env="DARL_SCORES"),
    features: FilePath | None = setting(
        None,
        "Where features go: .npy, a row for each pair. Without --out nothing else is computed.",
        env="DARL_FEATURES",
    ),
    items: InputFile | None = setting(
        None, "Items to look ids up in: .jsonl, .jsonl.gz or .parquet.", env="DARL_ITEMS"
    ),
    engine: Literal["local", "ray"] = setting("local", "This machine, or Ray.", env="DARL_ENGINE"),
    address: str | None = setting(
        None,
        "A Ray cluster that runs already, or auto.  [default: start Ray on this machine]",
        env="DARL_RAY_ADDRESS",
        metavar="HOST:PORT",
    ),
    workers: int | None = setting(
        None, "Ray workers.  [default: as many as there is room for]", least=1, env="DARL_WORKERS"
    ),
    provider: Provider = setting(
        "cpu", "Where the graphs run; a GPU that is asked for must be there.", env="DARL_PROVIDER"
    ),
    threads: int | None = setting(
        None,
        "Batches scored at the same time.  [default: the cores of this process; 1 for each Ray worker]",
        least=1,
        env="DARL_THREADS",
    ),
    int8: bool = setting(False, "Score with the quantised graph.", env="DARL_INT8"),
    shard_pairs: int = setting(
        2048,
        "Pairs scored together and kept as one; bounds memory, and what a kill costs.",
        least=1,
        most=1_000_000,
        env="DARL_SHARD_PAIRS",
    ),
    fresh: bool = setting(False, "Throw away unfinished work, and replace results that are there."),
    as_json: bool = JSON,
) -> None:
    """Score PAIRS, or embed them, with BUNDLE.

    PAIRS is JSONL (.gz too) or Parquet: {"query", "item_id"} with --items, {"query", "text"}, or {"query",
    "items": […]}. The whole pool is checked first. Finished shards are kept in NAME.work beside the result: a run
    that was killed goes on from there when the same command is given again.
    """
    from darl_opensearch.pool import score_pool

    # Ray tells of workers that died by printing; stdout is for the result.
    with progress_line("reading") as line, contextlib.redirect_stdout(sys.stderr):
        report = score_pool(
            bundle, pairs, out=out, features=features, items=items, engine=engine, provider=provider, threads=threads,
            int8=int8, shard_pairs=shard_pairs, address=address, workers=workers, fresh=fresh, on_progress=line.report,
        )  # fmt: skip
    results = " and ".join(name for name in (report.out, report.features) if name)
    text = f"{report.pairs:,} pairs: {results}"
    if report.reused:
        text += f" ({report.reused:,} of {report.shards:,} shards were there already)"
    emit(report.to_json(), as_json=as_json, text=text)
