"""``darl evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from darl_opensearch.cli.output import emit, json_option, note, progress_line
from darl_opensearch.cli.scoring_options import draws_option, int8_option, provider_option, seed_option, threads_option
from darl_opensearch.errors import load

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--items",
    type=FILE,
    multiple=True,
    required=True,
    envvar="DARL_ITEMS",
    show_envvar=True,
    help="Items that are judged or retrieved, JSONL; may be repeated.",
)
@click.option(
    "--judgments",
    "parts",
    metavar="[NAME=]FILE",
    multiple=True,
    required=True,
    envvar="DARL_JUDGMENTS",
    show_envvar=True,
    help="A judged part, JSONL; may be repeated. The part 'id' is like the training's, every other name is an OOD "
    "part; a file alone is 'id'.",
)
@click.option(
    "--against",
    metavar="NAME|BUNDLE|RUN",
    multiple=True,
    envvar="DARL_AGAINST",
    show_envvar=True,
    help="Compare with this, query by query: cosine (of the first bundle's encoder), bm25, int8 (the first bundle's "
    "quantised graph), another bundle, or a TREC run file; may be repeated.",
)
@click.option(
    "--depth",
    "depths",
    type=click.IntRange(0, 10_000),
    multiple=True,
    envvar="DARL_DEPTH",
    show_envvar=True,
    help="Also rerank so many items of a first stage; may be repeated.  [default: 0 5 10 20 50 100 with --run]",
)
@click.option(
    "--run",
    "first_stage",
    type=FILE,
    envvar="DARL_FIRST_STAGE",
    show_envvar=True,
    help="The first stage's order for --depth, a TREC run file.  [default: BM25 over the items]",
)
@click.option(
    "--cutoff",
    "cutoffs",
    type=click.IntRange(1, 1000),
    multiple=True,
    default=(3, 10),
    show_default=True,
    envvar="DARL_CUTOFF",
    show_envvar=True,
    help="Ranks that nDCG and P count; may be repeated.",
)
@click.option(
    "--relevant-from",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    envvar="DARL_RELEVANT_FROM",
    show_envvar=True,
    help="The lowest grade that counts as relevant in P, MAP and MRR.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    envvar="DARL_EVALUATION",
    show_envvar=True,
    help="Folder for evaluation.json, evaluation.html and TREC runs.  [default: nothing is written]",
)
@int8_option("Use the quantised graph.")
@provider_option("Where the graphs run. Without a usable GPU cuda falls back to cpu, and says so.")
@threads_option()
@draws_option(2000, most=100_000)
@seed_option()
@json_option
def cli(
    bundles: tuple[Path, ...], items: tuple[Path, ...], parts: tuple[str, ...], against: tuple[str, ...],
    depths: tuple[int, ...], first_stage: Path | None, cutoffs: tuple[int, ...], relevant_from: int, out: Path | None,
    int8: bool, provider: Literal["cpu", "cuda"], threads: int | None, draws: int, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure bundles on judged queries: ranking, grades, calibration, OOD, with intervals.

    BUNDLE is scored with the graph that will serve; a finished training run is taken as well, and scored by
    torch. Every interval resamples queries.
    """
    evaluation = load("trainer.evaluate.evaluation", "train")
    from trainer.evaluate.depth import DEPTHS
    from trainer.evaluate.parts import parse_parts
    from trainer.evaluate.report import render_text, write_folder
    from trainer.evaluate.report.folder import check_folder
    from trainer.evaluate.settings import Settings

    settings = Settings(
        models=bundles, items=items, parts=parse_parts(parts), against=against, first_stage=first_stage,
        depths=depths or (DEPTHS if first_stage else ()), cutoffs=cutoffs, relevant_from=relevant_from, int8=int8,
        provider=provider, threads=threads, draws=draws, seed=seed,
    )  # fmt: skip
    if out is not None:
        check_folder(out)  # before minutes of scoring, not after
        load("matplotlib", "train")
    with progress_line("opening", total=1) as line:
        found = evaluation.evaluate(settings, report=line.report)
    if out is not None:
        write_folder(out, found)
        note(f"{out / 'evaluation.html'} has everything, with pictures")
    emit(found.result, as_json=as_json, text=render_text(found.result))
