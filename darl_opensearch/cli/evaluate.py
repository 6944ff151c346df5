"""``darl evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON, SEED, THREADS
from darl_opensearch.errors import load
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.settings import FilePath, setting
from darl_opensearch.settings.options import with_options

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_options
def cli(
    bundles: tuple[Path, ...],
    items: tuple[FilePath, ...] = setting(..., "Items that are judged or retrieved, JSONL.", env="DARL_ITEMS"),
    parts: tuple[str, ...] = setting(
        ...,
        "A judged part, JSONL. The part 'id' is like the training's, every other name is an OOD "
        "part; a file alone is 'id'.",
        env="DARL_JUDGMENTS",
        flag="--judgments",
        metavar="[NAME=]FILE",
    ),
    against: tuple[str, ...] = setting(
        (),
        "Compare with this, query by query: cosine (of the first bundle's encoder), bm25, int8 (the first bundle's "
        "quantised graph), another bundle, or a TREC run file.",
        env="DARL_AGAINST",
        metavar="NAME|BUNDLE|RUN",
    ),
    depths: tuple[int, ...] = setting(
        (),
        "Also rerank so many items of a first stage.  [default: 0 5 10 20 50 100 with --run]",
        least=0,
        most=10_000,
        env="DARL_DEPTH",
        flag="--depth",
    ),
    first_stage: FilePath | None = setting(
        None,
        "The first stage's order for --depth, a TREC run file.  [default: BM25 over the items]",
        env="DARL_FIRST_STAGE",
        flag="--run",
    ),
    cutoffs: tuple[int, ...] = setting(
        (3, 10), "Ranks that nDCG and P count.", least=1, most=1000, env="DARL_CUTOFF", flag="--cutoff"
    ),
    relevant_from: int = setting(
        1, "The lowest grade that counts as relevant in P, MAP and MRR.", least=1, env="DARL_RELEVANT_FROM"
    ),
    out: Path | None = setting(
        None,
        "Folder for evaluation.json, evaluation.html and TREC runs.  [default: nothing is written]",
        env="DARL_EVALUATION",
    ),
    int8: bool = setting(False, "Use the quantised graph.", env="DARL_INT8"),
    provider: Provider = setting(
        "cpu", "Where the graphs run. Without a usable GPU cuda falls back to cpu, and says so.", env="DARL_PROVIDER"
    ),
    threads: int | None = THREADS,
    draws: int = setting(
        2000, "Resamples of every interval, sign patterns of every p-value.", least=100, most=100_000, env="DARL_DRAWS"
    ),
    seed: int = SEED,
    as_json: bool = JSON,
) -> None:
    """Measure bundles on judged queries: ranking, grades, calibration, OOD, with intervals.

    BUNDLE is scored with the graph that will serve; a finished training run is taken as well, and scored by
    torch. Every interval resamples queries.
    """
    evaluation = load("trainer.evaluate.evaluation", "train")
    from trainer.evaluate.depth import DEPTHS
    from trainer.evaluate.parts import parse_parts
    from trainer.evaluate.report import render_text, write_folder
    from trainer.evaluate.report.folder import check_folder
    from trainer.evaluate.settings import EvaluationOptions

    settings = EvaluationOptions(
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
