"""``darl mine``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, JSON
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError, load
from darl_opensearch.settings import FilePath, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle
    from trainer.data.mining import MiningRule
else:
    MiningRule = load("trainer.data.mining", "train").MiningRule


@click.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path), default="darl.toml")
@with_options
def cli(
    config: Path,
    out: FilePath | None = setting(
        None,
        "JSONL file to write or replace. Required unless --dry-run is given.",
        env="DARL_MINE_OUT",
    ),
    index: str | None = setting(
        None,
        "Index to search, filled by darl index.  [default: local BM25 over the items]",
        env="DARL_INDEX",
    ),
    cluster: ClusterOptions = CLUSTER,
    bundle: InputFolder | None = setting(
        None, "Drop items that this bundle scores too close to the judged positives.", env="DARL_BUNDLE"
    ),
    rule: MiningRule = setting(..., "the mining"),
    with_judged: bool = setting(False, "Write the judgments first, so that the file can replace them in darl.toml."),
    dry_run: bool = setting(False, "Mine, print counts and write nothing."),
    as_json: bool = JSON,
) -> None:
    """Mine hard negatives: unjudged first-stage hits for the judged queries of CONFIG (darl.toml).

    They are written as judgments of grade 0 with "mined": true. Some will be relevant nevertheless: see --skip-top,
    --bundle and docs/data.md.
    """
    if dry_run:
        out = None
    elif out is None:
        raise UsageError("no output file is given", todo="pass --out or --dry-run")
    mining = load("trainer.data.mining", "train")
    from darl_opensearch.io.writing import new_file
    from darl_opensearch.records.items import describe_blank, read_items
    from darl_opensearch.records.judgments import read_judgments
    from trainer.config import read_config
    from trainer.stages.registry import check_plan

    settings = read_config(config)
    check_plan(settings, str(config))
    judged = config.parent / settings.data.judgments
    catalogue = config.parent / settings.data.items
    if out is not None:
        data = settings.data
        named = (data.items, data.judgments, data.dev, data.new, data.ood_dev, data.traffic)
        mining.check_outputs(out, config, *(config.parent / name for name in named if name))
    model = _open(bundle) if bundle else None
    blank: Counter[str] = Counter()
    renderer = model.renderer if model else mining.WholeItems(settings.template.item_template)
    with progress_line("reading"):
        items = read_items(catalogue, renderer, blank)
        queries = read_judgments(judged, items, settings.grades.scale.k, blank)
    if blank:
        note(f"warning: {describe_blank(blank)}")
    from darl_opensearch.cluster.item_index import open_first_stage

    with contextlib.ExitStack() as open_:
        retrieve = open_.enter_context(open_first_stage(cluster, index)) if index else mining.local_first_stage(items)
        score = open_.enter_context(_scores(model)) if model else None
        target = open_.enter_context(new_file(out)) if out else None
        file = open_.enter_context(target.open("w", encoding="utf-8")) if target else None
        miner = mining.Miner(items, retrieve, rule, score)
        if file and with_judged:
            file.writelines(line + "\n" for line in _judged_lines(judged))
        with progress_line("mining", total=len(queries)) as line:
            for negative in miner.mine(queries):
                line.count(miner.counts.queries, len(queries))
                if file:
                    file.write(json.dumps(negative.to_json(), ensure_ascii=False) + "\n")
    counts = dataclasses.asdict(miner.counts)
    result: dict[str, Any] = {"file": str(out) if out else None, "with_judged": with_judged, **counts}
    emit(result, as_json=as_json, text=_summary(result))


def _open(folder: Path) -> Bundle:
    from darl_opensearch.bundle import Bundle

    return Bundle.open(folder)


@contextlib.contextmanager
def _scores(bundle: Bundle) -> Iterator[Callable[[str, Sequence[str]], Sequence[float]]]:
    from darl_opensearch.scoring import Scorer

    with Scorer.open(bundle) as scorer:
        yield lambda query, texts: scorer.score(query, texts).score.tolist()


def _judged_lines(path: Path) -> Iterator[str]:
    from darl_opensearch.io.jsonl import read_jsonl

    return (json.dumps(row, ensure_ascii=False) for _, row in read_jsonl(path))


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{result['mined']} negatives for {result['queries']} queries"]
    reasons = {
        "judged": "hits are already judged",
        "too_close": "hits scored too close to the judged positives",
        "without_positive": "queries have no relevant item to compare with",
        "without_negative": "queries have no negatives",
    }
    lines.append(
        f"joined with the items: {result['hits'] - result['unknown']} hits matched, {result['unknown']} did not"
    )
    lines += [f"{result[key]} {text}" for key, text in reasons.items() if result[key]]
    if result["file"] is None:
        lines.append("Nothing was written.")
    elif result["with_judged"]:
        lines.append(f'Next: in darl.toml, [data] judgments = "{Path(result["file"]).absolute()}"')
    else:
        lines.append(f"Written to {result['file']}. Pass --with-judged to include the judgments.")
    return "\n".join(lines)
