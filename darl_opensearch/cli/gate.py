"""``darl gate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON, SEED, THREADS
from darl_opensearch.errors import GateRefused, load
from darl_opensearch.io.writing import write_file
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.settings import FilePath, InputFile, setting
from darl_opensearch.settings.options import with_options


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
    train: tuple[InputFile, ...] = setting(
        (),
        "Judgments that NEW was trained on, to see that no query of --id or --control is among them.",
        env="DARL_GATE_TRAIN",
    ),
    measure: str = setting(
        "ndcg@10",
        "What decides: ndcg@C, p@C, ap, rr, or rps (of the grades; lower is better).",
        env="DARL_GATE_MEASURE",
    ),
    tolerance: float = setting(
        0.01,
        "Loss of it on --id that is none: the lower end of the interval must stay above minus this.",
        least=0,
        env="DARL_GATE_TOLERANCE",
    ),
    min_queries: int = setting(
        30, "Queries with a value below which a part decides nothing.", least=2, env="DARL_GATE_MIN_QUERIES"
    ),
    relevant_from: int = setting(
        1, "The lowest grade that counts as relevant in p@C, ap and rr.", least=1, env="DARL_RELEVANT_FROM"
    ),
    allow: tuple[Literal["query", "near-query"], ...] = setting(
        (), "What --train may share with the other parts.", env="DARL_GATE_ALLOW"
    ),
    changed: str = setting(
        "",
        "Why NEW may have other grades, or another template, than OLD; without a reason it may not.",
        env="DARL_GATE_CHANGED",
        metavar="WHY",
    ),
    int8: bool = setting(False, "Use the quantised graphs.", env="DARL_INT8"),
    provider: Provider = setting("cpu", "Where the graphs run.", env="DARL_PROVIDER"),
    threads: int | None = THREADS,
    draws: int = setting(
        10_000,
        "Resamples of every interval, sign patterns of every p-value.",
        least=100,
        most=1_000_000,
        env="DARL_DRAWS",
    ),
    seed: int = SEED,
    out: FilePath | None = setting(
        None, "Also write the JSON object to this file: darl release --gate takes it.", env="DARL_GATE_OUT"
    ),
    as_json: bool = JSON,
) -> None:
    """Decide whether bundle NEW may take the place of bundle OLD.

    Both score the judged pairs with the graphs that serve. Yes needs: no loss on --id beyond the tolerance, a gain on
    --control, both by the lower end of a 95 % interval over queries; a sound bundle; grades and items that mean what
    they meant; no query that NEW was trained on. Ends with 3 for a no, and says how many queries would decide.
    """
    gates = load("trainer.evaluate.gate", "train")
    from darl_opensearch.bundle import Bundle
    from trainer.evaluate.gate_words import render_decision

    options = gates.GateOptions(
        measure=measure, tolerance=tolerance, min_queries=min_queries, relevant_from=relevant_from, train=train,
        allow=allow, changed=changed, int8=int8, provider=provider, threads=threads, draws=draws, seed=seed,
    )  # fmt: skip
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
