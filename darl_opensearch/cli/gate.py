"""``darl gate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from darl_opensearch.cli.output import emit, json_option, progress_line
from darl_opensearch.cli.scoring_options import draws_option, int8_option, provider_option, seed_option, threads_option
from darl_opensearch.errors import GateRefused, load
from darl_opensearch.io.writing import write_file

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("old", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--items",
    type=FILE,
    multiple=True,
    required=True,
    envvar="DARL_ITEMS",
    show_envvar=True,
    help="Items that are judged, JSONL; may be repeated.",
)
@click.option(
    "--id",
    "id_test",
    type=FILE,
    required=True,
    envvar="DARL_GATE_ID",
    show_envvar=True,
    help="Judgments of held-out queries like the training's, JSONL.",
)
@click.option(
    "--control",
    type=FILE,
    required=True,
    envvar="DARL_GATE_CONTROL",
    show_envvar=True,
    help="Judgments of the control arm, JSONL: a random sample of traffic, never trained on.",
)
@click.option(
    "--train",
    type=FILE,
    multiple=True,
    envvar="DARL_GATE_TRAIN",
    show_envvar=True,
    help="Judgments that NEW was trained on, to see that no query of --id or --control is among them; may be repeated.",
)
@click.option(
    "--measure",
    default="ndcg@10",
    show_default=True,
    envvar="DARL_GATE_MEASURE",
    show_envvar=True,
    help="What decides: ndcg@C, p@C, ap, rr, or rps (of the grades; lower is better).",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    envvar="DARL_GATE_TOLERANCE",
    show_envvar=True,
    help="Loss of it on --id that is none: the lower end of the interval must stay above minus this.",
)
@click.option(
    "--min-queries",
    type=click.IntRange(2),
    default=30,
    show_default=True,
    envvar="DARL_GATE_MIN_QUERIES",
    show_envvar=True,
    help="Queries with a value below which a part decides nothing.",
)
@click.option(
    "--relevant-from",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    envvar="DARL_RELEVANT_FROM",
    show_envvar=True,
    help="The lowest grade that counts as relevant in p@C, ap and rr.",
)
@click.option(
    "--allow",
    type=click.Choice(["query", "near-query"]),
    multiple=True,
    envvar="DARL_GATE_ALLOW",
    show_envvar=True,
    help="What --train may share with the other parts; may be repeated.",
)
@click.option(
    "--changed",
    default="",
    metavar="WHY",
    envvar="DARL_GATE_CHANGED",
    show_envvar=True,
    help="Why NEW may have other grades, or another template, than OLD; without a reason it may not.",
)
@int8_option("Use the quantised graphs.")
@provider_option("Where the graphs run.")
@threads_option()
@draws_option(10_000, most=1_000_000)
@seed_option()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="DARL_GATE_OUT",
    show_envvar=True,
    help="Also write the JSON object to this file: darl release --gate takes it.",
)
@json_option
def cli(
    old: Path, new: Path, items: tuple[Path, ...], id_test: Path, control: Path, train: tuple[Path, ...], measure: str,
    tolerance: float, min_queries: int, relevant_from: int, allow: tuple[str, ...], changed: str, int8: bool,
    provider: Literal["cpu", "cuda"], threads: int | None, draws: int, seed: int, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Decide whether bundle NEW may take the place of bundle OLD.

    Both score the judged pairs with the graphs that serve. Yes needs: no loss on --id beyond the tolerance, a gain on
    --control, both by the lower end of a 95 % interval over queries; a sound bundle; grades and items that mean what
    they meant; no query that NEW was trained on. Ends with 3 for a no, and says how many queries would decide.
    """
    gates = load("trainer.evaluate.gate", "train")
    from darl_opensearch.bundle import Bundle
    from trainer.evaluate.gate_words import render_text

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
    emit(result, as_json=as_json, text=render_text(result))
    if not found.passed:
        raise GateRefused(
            f"the gate says no ({'; '.join(found.reasons)})", where=str(new), todo="leave the old bundle where it is"
        )
