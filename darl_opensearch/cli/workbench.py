"""``darl workbench``: the Search Relevance Workbench, both ways."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from darl_opensearch.cli.output import emit, emit_calls, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, DRY_RUN, JSON, parse_pairs
from darl_opensearch.cluster.switching import PipelineHistory
from darl_opensearch.cluster.workbench.push import PushOptions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError, load, one_line
from darl_opensearch.settings import FilePath, InputFile, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.cluster.workbench.push import Pushed

APPLY: Any = setting(False, "Enable the Workbench if its cluster setting disables it.", flag="--apply-settings")


@click.group()
def cli() -> None:
    """Exchange queries, judgments and experiments with OpenSearch's Search Relevance Workbench."""


@cli.command("push")
@click.argument("judgments", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def push_command(
    judgments: Path,
    bundle: InputFolder = setting(..., "Bundle with the grades of the judgments.", env="DARL_BUNDLE"),
    cluster: ClusterOptions = CLUSTER,
    index: str = setting(..., "Index to search.", env="DARL_INDEX"),
    place: PipelineHistory = setting(..., "the pipeline and its history"),
    options: PushOptions = setting(..., "what is written"),
    body: InputFile | None = setting(
        None, "Search body, JSON, with {{queryText}} where the query's text goes.  [default: a match on darl_text]"
    ),
    apply_settings: bool = APPLY,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Write JUDGMENTS to the Workbench, with what it takes to compare the pipeline with the first stage.

    Writes a query set, judgments, a search configuration for the first stage, for the pipeline and for each earlier
    version that is still deployed, and starts experiments. Before that, each configuration must rerank a query. What is
    there with the same name and content is used again; experiments are always new.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.workbench.push import push

    card = Bundle.open(bundle, verify=False).card
    target = Cluster.open(cluster, dry_run=dry_run)
    with progress_line("writing to the Workbench"):
        done = push(target, judgments, card.scale, index, options, place, body=body, apply_settings=apply_settings)
    for line in _remarks(done):
        note(f"warning: {line}")
    if dry_run:
        emit_calls(target.calls)
        return
    emit(done.to_json(), as_json=as_json, text=_text(done))


@cli.command("pull")
@click.argument("words", metavar="LIST")
@with_options
def pull_command(
    words: str,
    cluster: ClusterOptions = CLUSTER,
    out: FilePath | None = setting(
        None, "New file of judgments, JSONL. Required unless --dry-run is given.", env="DARL_WORKBENCH_OUT"
    ),
    params: tuple[str, ...] = setting(
        (),
        "Parameter of the format search-relevance (listed in docs/data.md), such as cuts=0.5,1.5.",
        flag="--set",
        metavar="KEY=VALUE",
    ),
    repeats: Literal["refuse", "first", "highest", "lowest"] = setting(
        "refuse", "What to do with a pair that has two grades."
    ),
    apply_settings: bool = APPLY,
    dry_run: bool = setting(False, "Read and check the judgments, print counts, and write nothing."),
    as_json: bool = JSON,
) -> None:
    """Take the judgments LIST, an id or a name, from the Workbench into a JSONL file.

    Ratings are read as darl import search-relevance reads them. Items are not written: their ids are the documents'.
    """
    ratings = load("trainer.data.importers.ratings", "train")
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.workbench.api import open_workbench
    from darl_opensearch.cluster.workbench.pull import fetch_judgments

    if out is None and not dry_run:
        raise UsageError("no output file is given", todo="pass --out or --dry-run")
    given = parse_pairs("--set", params)
    if "list" in given:
        raise UsageError("--set list is given twice: the argument names the list", todo="omit it")
    target = Cluster.open(cluster)
    document = fetch_judgments(open_workbench(target, apply_settings=apply_settings and not dry_run), words)
    with tempfile.TemporaryDirectory(prefix="darl-pull-") as folder:
        path = Path(folder) / "judgments.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        done = ratings.import_ratings(path, None if dry_run else out, params=given, repeats=repeats)
    result = {"id": document["id"], "name": document.get("name"), "type": document.get("type"), **done.to_json()}
    if not as_json:
        for line in done.notes:
            note(line)
    emit(result, as_json=as_json, text=_counts(result))


def _remarks(done: Pushed) -> list[str]:
    remarks = []
    for reason, count in done.left_out.items():
        remarks.append(f"{count:,} of {sum(done.left_out.values()) + done.queries:,} queries are left out: {reason}")
    if done.items_found < done.items:
        remarks.append(f"{done.items - done.items_found:,} of {done.items:,} judged items are not in the index")
    remarks += [f"no query had hits with configuration {label!r}, so it was not tried" for label in done.not_tried]
    if done.versions_left_out:
        remarks.append(f"no longer deployed, and left out: {', '.join(done.versions_left_out)}")
    return remarks


def _text(done: Pushed) -> str:
    lines = [f"{done.judgments:,} judgments of {done.queries:,} queries; {done.items_found:,} of {done.items:,} judged "
             "items matched the index"]  # fmt: skip
    names = Counter(entity.kind for entity in done.entities)
    width = max(len(kind) for kind in names)
    for entity in done.entities:
        state = "created" if entity.created else "unchanged"
        kind = entity.kind.replace("_", " ")
        lines.append(f"  {kind:{width}}  {state:9}  {entity.id}  {one_line(entity.name)}")
    if names["experiments"]:
        lines.append("The experiments are running: see Search Relevance in OpenSearch Dashboards.")
    return "\n".join(lines)


def _counts(result: dict[str, Any]) -> str:
    lines = [f"{result['judgments']:,} judgments of {result['queries']:,} queries, by {result['type']}"]
    lines += [f"  grade {grade}  {count:>9,}" for grade, count in enumerate(result["grades"])]
    lines += [f"{key.replace('_', ' ')}: {n:,}" for key, n in result["passed_over"].items() if n]
    lines.append(f"written to {result['file']}" if result["file"] else "Nothing was written.")
    return "\n".join(lines)
