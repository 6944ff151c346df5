"""``darl demo``."""

from __future__ import annotations

from pathlib import Path

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import DarlError
from darl_opensearch.settings import FolderPath, setting
from darl_opensearch.settings.options import with_options


@click.command()
@with_options
def cli(
    out: FolderPath = setting(Path("demo-out"), "Folder for the run, the bundle and the logs.", env="DARL_DEMO_OUT"),
    embedded: bool = setting(False, "Run without an OpenSearch node even if one could be started."),
    keep: bool = setting(False, "Leave the node running on port 9200; darl node down stops it."),
    as_json: bool = JSON,
) -> None:
    """Run the whole loop on the insurance sample: train, export, register, search, log, compare.

    Uses a real OpenSearch node if Java 21+ and Maven, or Docker, are available; otherwise it runs embedded, and its
    first line says so.
    """
    from darl_opensearch.cli.demo.pages import describe_places
    from darl_opensearch.cli.demo.report import open_console
    from darl_opensearch.cli.demo.run import DemoOptions, run_demo
    from darl_opensearch.resources import insurance_sample

    options = DemoOptions(insurance_sample(), out, embedded=embedded, keep=keep)
    with progress_line("starting", total=1) as line:
        terminal = line.console
        result = run_demo(options, note if as_json or not terminal.is_terminal else terminal.print, line.report)
    if as_json:
        emit(result.figures, as_json=True, text="")
    else:
        screen = open_console()
        for table in result.tables:
            screen.print(table)
        seconds = result.figures["seconds"]
        screen.print("Time: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()) + ".")
        screen.print(describe_places(result.places), soft_wrap=True, markup=False)  # commands stay in one piece
    if result.failures:
        raise DarlError("; ".join(result.failures), where="demo", todo="see the tables above")
