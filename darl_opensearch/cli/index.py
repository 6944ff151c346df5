"""``darl index``: items into an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.cluster_options import cluster_options, dry_run_option
from darl_opensearch.cli.output import emit, emit_calls, json_option, progress_line

if TYPE_CHECKING:
    from darl_opensearch.connect import ClusterOptions


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE")
@click.argument("items", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@cluster_options
@click.option("--index", required=True, envvar="DARL_INDEX", show_envvar=True, help="The index to load into.")
@click.option("--recreate", is_flag=True, help="Delete the index first.")
@click.option(
    "--shards",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    envvar="DARL_SHARDS",
    show_envvar=True,
    help="Primary shards of a new index.",
)
@dry_run_option
@json_option
def cli(
    bundle: Path,
    items: Path,
    cluster: ClusterOptions,
    index: str,
    recreate: bool,
    shards: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Render ITEMS (JSONL, one item a line; .gz too) by BUNDLE's template and load them.

    The whole file is checked before anything is sent. Items keep their ids: loading a file again ends in the
    same index.
    """
    from darl_opensearch.cluster import Cluster, load_items

    target = Cluster.open(cluster, dry_run=dry_run)
    with progress_line("loading") as line:
        report = load_items(
            target,
            bundle,
            items,
            index,
            recreate=recreate,
            shards=shards,
            on_item=line.count,
        )
    if dry_run:
        emit_calls(target.calls)
        return
    if not as_json:
        report.check()
    text = f"{report.indexed} items in {report.index}" + (", which is new" if report.created else "")
    emit(report.to_json(), as_json=as_json, text=text)
    report.check()
