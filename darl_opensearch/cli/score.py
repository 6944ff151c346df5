"""``darl score``: a pool through a bundle."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit, json_option, progress_line
from darl_opensearch.cli.scoring_options import int8_option, provider_option, threads_option

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE")
@click.argument("pairs", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=_FILE,
    envvar="DARL_SCORES",
    show_envvar=True,
    help="Where scores go: .jsonl, .jsonl.gz or .parquet.",
)
@click.option(
    "--features",
    type=_FILE,
    envvar="DARL_FEATURES",
    show_envvar=True,
    help="Where features go: .npy, a row for each pair. Without --out nothing else is computed.",
)
@click.option(
    "--items",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="DARL_ITEMS",
    show_envvar=True,
    help="Items to look ids up in: .jsonl, .jsonl.gz or .parquet.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    envvar="DARL_ENGINE",
    show_envvar=True,
    help="This machine, or Ray.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    envvar="DARL_RAY_ADDRESS",
    show_envvar=True,
    help="A Ray cluster that runs already, or auto.  [default: start Ray on this machine]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    envvar="DARL_WORKERS",
    show_envvar=True,
    help="Ray workers.  [default: as many as there is room for]",
)
@provider_option("Where the graphs run; a GPU that is asked for must be there.")
@threads_option("the cores of this process; 1 for each Ray worker")
@int8_option("Score with the quantised graph.")
@click.option(
    "--shard-pairs",
    type=click.IntRange(1, 1_000_000),
    default=2048,
    show_default=True,
    envvar="DARL_SHARD_PAIRS",
    show_envvar=True,
    help="Pairs scored together and kept as one; bounds memory, and what a kill costs.",
)
@click.option("--fresh", is_flag=True, help="Throw away unfinished work, and replace results that are there.")
@json_option
def cli(bundle: Path, pairs: Path, as_json: bool, **options: Any) -> None:
    """Score PAIRS, or embed them, with BUNDLE.

    PAIRS is JSONL (.gz too) or Parquet: {"query", "item_id"} with --items, {"query", "text"}, or {"query",
    "items": […]}. The whole pool is checked first. Finished shards are kept in NAME.work beside the result: a run
    that was killed goes on from there when the same command is given again.
    """
    from darl_opensearch.pool import score_pool

    # Ray tells of workers that died by printing; stdout is for the result.
    with progress_line("reading") as line, contextlib.redirect_stdout(sys.stderr):
        report = score_pool(bundle, pairs, on_progress=line.report, **options)
    results = " and ".join(name for name in (report.out, report.features) if name)
    text = f"{report.pairs:,} pairs: {results}"
    if report.reused:
        text += f" ({report.reused:,} of {report.shards:,} shards were there already)"
    emit(report.to_json(), as_json=as_json, text=text)
