"""``darl export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, json_option, progress_line
from darl_opensearch.errors import load

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DARL_DATA_ROOT",
    show_envvar=True,
    help="Folder that the configuration's paths are relative to.  [default: where darl.toml was]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DARL_BUNDLE",
    show_envvar=True,
    help="Folder of the bundle.  [default: RUN/bundle]",
)
@click.option("--int8/--no-int8", default=True, show_default=True, help="Also write the quantised graph.")
@click.option(
    "--checkpoint/--no-checkpoint",
    default=True,
    show_default=True,
    help="Keep what the next cycle's training starts from.",
)
@json_option
def cli(run: Path, data: Path | None, out: Path | None, int8: bool, checkpoint: bool, as_json: bool) -> None:
    """Turn the finished training run in folder RUN into a bundle.

    The graph goes through Optimum, is compared with torch within the contract's bounds, and is written only
    when it keeps them.
    """
    bundle = export(run, data, out, int8=int8, checkpoint=checkpoint)
    card = bundle.card
    result = {"bundle": str(bundle.path), "name": card.name, "version": card.version, "graphs": dict(card.graphs)}
    text = f"{card.name} {card.version} is in {bundle.path}\nNext: darl check {bundle.path}"
    emit(result, as_json=as_json, text=text)


def export(run: Path, data: Path | None, out: Path | None, *, int8: bool = True, checkpoint: bool = True) -> Bundle:
    """Export a run with progress on the terminal.

    :param data: folder the configuration's paths are relative to.
    :param int8: also write the quantised graph.
    """
    run_folder = load("trainer.run_folder", "train")
    from trainer.export import export_run

    trained = run_folder.load_run(run)
    with progress_line("exporting") as line:
        return export_run(
            trained, data or run_folder.data_root(run), out or run / "bundle", int8=int8, checkpoint=checkpoint,
            report=line.report,
        )  # fmt: skip
