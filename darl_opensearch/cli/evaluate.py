"""``darl evaluate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import load
from darl_opensearch.records.items import describe_blank
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from trainer.evaluate.settings import EvaluationOptions
else:
    EvaluationOptions = load("trainer.evaluate.settings", "train").EvaluationOptions

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_options
def cli(
    bundles: tuple[Path, ...],
    parts: tuple[str, ...] = setting(
        ...,
        "Judgments, JSONL. The part named 'id' is in-distribution, all others are OOD parts; a FILE without a name "
        "is 'id'.",
        env="DARL_JUDGMENTS",
        flag="--judgments",
        metavar="[NAME=]FILE",
    ),
    options: EvaluationOptions = setting(..., "the evaluation"),
    out: Path | None = setting(
        None,
        "Folder for evaluation.json, evaluation.html and TREC runs.  [default: nothing is written]",
        env="DARL_EVALUATION",
    ),
    as_json: bool = JSON,
) -> None:
    """Evaluate bundles on judged queries: ranking, grades, calibration and OOD, with confidence intervals.

    BUNDLE is scored with the graph that will serve it, or by torch if it is a finished training run. All intervals
    resample queries.
    """
    evaluation = load("trainer.evaluate.evaluation", "train")
    from trainer.evaluate.depth import DEPTHS
    from trainer.evaluate.parts import parse_parts
    from trainer.evaluate.report import render_text, write_folder
    from trainer.evaluate.report.folder import check_folder

    depths = options.depths or (DEPTHS if options.first_stage else ())
    options = dataclasses.replace(options, models=bundles, parts=parse_parts(parts), depths=depths)
    if out is not None:
        check_folder(out)  # before minutes of scoring, not after
        load("matplotlib", "train")
    with progress_line("opening", total=1) as line:
        evaluated = evaluation.evaluate(options, report=line.report)
    if out is not None:
        write_folder(out, evaluated)
        note(f"the full report with charts is in {out / 'evaluation.html'}")
    if evaluated.result["without_text"]:
        note(f"warning: {describe_blank(evaluated.result['without_text'])}")
    emit(evaluated.result, as_json=as_json, text=render_text(evaluated.result))
