"""``darl export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import load
from darl_opensearch.settings import FolderPath, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@with_options
def cli(
    run: Path,
    data: FolderPath | None = setting(
        None,
        "Folder that the configuration's paths are relative to.  [default: that of darl.toml in training]",
        env="DARL_DATA_ROOT",
    ),
    out: FolderPath | None = setting(None, "Folder for the bundle.  [default: RUN/bundle]", env="DARL_BUNDLE"),
    int8: bool = setting(True, "Also export the quantised graph.", flag="--int8/--no-int8"),
    checkpoint: bool = setting(
        True, "Include the checkpoint that the next cycle starts training from.", flag="--checkpoint/--no-checkpoint"
    ),
    texts: bool = setting(
        False,
        "Include the texts of training queries and judged items: the monitor's page shows the nearest beside a "
        "strange one. Whoever has the bundle can read them.",
        env="DARL_EXPORT_TEXTS",
    ),  # fmt: skip
    as_json: bool = JSON,
) -> None:
    """Export the finished training run in folder RUN as a bundle.

    The ONNX graph is compared with torch, and the bundle is written only if they agree within the contract's bounds.
    """
    bundle = export(run, data, out, int8=int8, checkpoint=checkpoint, texts=texts)
    card = bundle.card
    result = {"bundle": str(bundle.path), "name": card.name, "version": card.version, "graphs": dict(card.graphs)}
    text = f"{card.name} {card.version} is in {bundle.path}\nNext: darl check {bundle.path}"
    emit(result, as_json=as_json, text=text)


def export(
    run: Path, data: Path | None, out: Path | None, *, int8: bool = True, checkpoint: bool = True, texts: bool = False
) -> Bundle:
    """Export a run with progress on the terminal.

    :param data: folder the configuration's paths are relative to.
    """
    run_folder = load("trainer.run_folder", "train")
    from trainer.export import export_run

    trained = run_folder.load_run(run)
    with progress_line("exporting") as line:
        return export_run(
            trained, data or run_folder.data_root(run), out or run / "bundle", int8=int8, checkpoint=checkpoint,
            texts=texts, report=line.report,
        )  # fmt: skip
