"""``darl warm``: item states, before the first search needs them."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON, bundle_argument
from darl_opensearch.pool.engine import EngineOptions
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options
from darl_opensearch.warm import WarmOptions


@click.command()
@bundle_argument
@click.argument("items", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def cli(
    bundle: Path,
    items: tuple[Path, ...],
    options: WarmOptions = setting(..., "the item states"),
    engine: EngineOptions = setting(..., "the engine"),
    dry_run: bool = setting(False, "Count the items that are missing, encode none."),
    as_json: bool = JSON,
) -> None:
    """Encode ITEMS (JSONL) with BUNDLE and keep their states in --states, so that the first search finds them.

    Items whose states are there are passed over: started again, an interrupted run goes on.
    With --engine ray, workers with --threads cores each (default 1) encode; the folder stays on this machine.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.warm import warm_files

    # Ray tells of workers that died by printing; stdout is for the result.
    with progress_line("encoding") as line, contextlib.redirect_stdout(sys.stderr):
        report = warm_files(Bundle.open(bundle), items, options, engine=engine, dry_run=dry_run, on_item=line.count)
    emit(report.to_json(), as_json=as_json, text=report.describe())
    report.check(options.states)
