"""``darl report``."""

from __future__ import annotations

from pathlib import Path

import click

from darl_opensearch.cli.output import emit
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import load
from darl_opensearch.settings import FilePath, setting
from darl_opensearch.settings.options import with_options


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@with_options
def cli(
    folder: Path,
    html: FilePath | None = setting(
        None, "Write the page to this file.  [default: report.html in FOLDER]", env="DARL_REPORT_HTML"
    ),
    as_json: bool = JSON,
) -> None:
    """Write the report of a training run or a cycle as one self-contained page.

    FOLDER is a run's, such as runs/NAME-VERSION, or a cycle's, such as cycles/0001. darl train and darl cycle write
    the same page when they end. It shows what was recorded, also of a run that was interrupted or a cycle that waits,
    and says what was not.
    """
    written = load("trainer.report", "train").write_report(folder, html)
    lines = [f"The report is in {written.path}.", *(f"  {why}" for why in written.missing)]
    result = {"report": str(written.path), "of": written.of, "missing": list(written.missing)}
    emit(result, as_json=as_json, text="\n".join(lines))
