"""``darl gate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import GateRefused, load
from darl_opensearch.io.writing import write_file
from darl_opensearch.records.items import describe_blank
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
    items: tuple[InputFile, ...] = setting(..., "Judged items, JSONL.", env="DARL_ITEMS"),
    id_test: InputFile = setting(
        ..., "Judgments of held-out in-distribution queries, JSONL.", env="DARL_GATE_ID", flag="--id"
    ),
    control: InputFile = setting(
        ...,
        "Judgments of the control arm, JSONL: a random sample of the traffic, never trained on.",
        env="DARL_GATE_CONTROL",
    ),
    options: GateOptions = setting(..., "the gate"),
    out: FilePath | None = setting(
        None, "Also write the result as JSON to this file, for darl release --gate.", env="DARL_GATE_OUT"
    ),
    as_json: bool = JSON,
) -> None:
    """Decide whether bundle NEW may replace bundle OLD.

    Both score the judged pairs with the graphs that serve them. NEW passes if its order loses no more than --tolerance
    on --id and --control, by the lower end of a 95 % interval over queries; if order or grades gain on --control, both
    tested, and grades not by calibration alone; if its bundle is valid and its grades and item template are unchanged;
    and if it was trained on none of the test queries. Otherwise the exit code is 3, and the report estimates how many
    queries would settle it.
    """
    gates = load("trainer.evaluate.gate", "train")
    from darl_opensearch.bundle import Bundle
    from trainer.evaluate.gate_words import render_decision

    with progress_line("checking") as line:
        decision = gates.gate(
            Bundle.open(old), Bundle.open(new), items=items, id_test=id_test, control=control, options=options,
            report=line.report,
        )  # fmt: skip
    result = decision.to_json()
    if out is not None:
        write_file(out, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if result["without_text"]:
        note(f"warning: {describe_blank(result['without_text'])}")
    emit(result, as_json=as_json, text=render_decision(result))
    if not decision.passed:
        raise GateRefused(
            f"the gate refuses it ({'; '.join(decision.reasons)})", where=str(new), todo="keep serving the old bundle"
        )
