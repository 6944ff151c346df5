"""``darl gate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import GateRefused, load
from darl_opensearch.io.writing import write_file
from darl_opensearch.settings import FilePath, InputFile, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from trainer.evaluate.settings import GateOptions
else:
    GateOptions = load("trainer.evaluate.settings", "train").GateOptions


@click.command()
@click.argument("old", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, file_okay=False, path_type=Path))
@with_options
def cli(
    old: Path,
    new: Path,
    items: tuple[InputFile, ...] = setting(..., "Items that are judged, JSONL.", env="DARL_ITEMS"),
    id_test: InputFile = setting(
        ..., "Judgments of held-out queries like the training's, JSONL.", env="DARL_GATE_ID", flag="--id"
    ),
    control: InputFile = setting(
        ...,
        "Judgments of the control arm, JSONL: a random sample of traffic, never trained on.",
        env="DARL_GATE_CONTROL",
    ),
    options: GateOptions = setting(..., "what NEW has to prove"),
    out: FilePath | None = setting(
        None, "Also write the JSON object to this file: darl release --gate takes it.", env="DARL_GATE_OUT"
    ),
    as_json: bool = JSON,
) -> None:
    """Decide whether bundle NEW may take the place of bundle OLD.

    Both score the judged pairs with the graphs that serve. Yes needs: no loss on --id beyond the --tolerance, a gain on
    --control, both by the lower end of a 95 % interval over queries; a sound bundle; grades and items that mean what
    they meant; no query that NEW was trained on. Ends with 3 for a no, and says how many queries would decide.
    """
    gates = load("trainer.evaluate.gate", "train")
    from darl_opensearch.bundle import Bundle
    from trainer.evaluate.gate_words import render_decision

    with progress_line("checking") as line:
        found = gates.gate(
            Bundle.open(old), Bundle.open(new), items=items, id_test=id_test, control=control, options=options,
            report=line.report,
        )  # fmt: skip
    result = found.to_json()
    if out is not None:
        write_file(out, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    emit(result, as_json=as_json, text=render_decision(result))
    if not found.passed:
        raise GateRefused(
            f"the gate says no ({'; '.join(found.reasons)})", where=str(new), todo="leave the old bundle where it is"
        )
