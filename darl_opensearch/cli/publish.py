"""``darl publish``: export, check and register."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli import register as registering
from darl_opensearch.cli.check import check
from darl_opensearch.cli.export import export
from darl_opensearch.cli.output import note


def _command() -> click.Command:
    """Take all options of ``darl register``, with the run in place of the bundle."""
    options = [p for p in registering.cli.params if p.name != "bundle"]
    own: list[click.Parameter] = [
        click.Argument(["run"], type=click.Path(path_type=Path)),
        click.Option(
            ["--data"],
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder that the configuration's paths are relative to.  [default: that of darl.toml in training]",
        ),
        click.Option(
            ["--out"],
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for the bundle.  [default: RUN/bundle]",
        ),
    ]
    return click.Command("publish", callback=_publish, params=[*own, *options], help=_HELP)


_HELP = """Export, check and register the finished training run in folder RUN.

Stops if a step fails. With --dry-run the bundle is exported and checked, and the requests to the cluster are printed
instead of sent. All other options are those of darl register.
"""


@click.pass_context
def _publish(ctx: click.Context, /, run: Path, data: Path | None, out: Path | None, **options: Any) -> None:
    bundle = export(run, data, out)
    note(f"exported to {bundle.path}")
    findings = check(bundle.path)
    note(f"all {len(findings)} checks passed")
    ctx.invoke(registering.cli, bundle=bundle.path, **options)


cli = _command()
