"""``darl select``."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, JSON, STREAM, bundle_argument, parse_since
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError, load
from darl_opensearch.settings import FolderPath, InputFile, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.ood.store import OodStore
    from trainer.dasa.config import SelectConfig
else:
    SelectConfig = load("trainer.dasa.config", "train").SelectConfig


@click.command()
@bundle_argument
@with_options
def cli(
    bundle: Path,
    out: FolderPath | None = setting(
        None,
        "Folder for selected.jsonl, control.jsonl, kept.jsonl, map.json and report.json. Required unless --dry-run is "
        "given.",
        env="DARL_SELECT_OUT",
    ),
    spool: InputFile | None = setting(
        None, "Read this spool instead of the data stream of the cluster at --url.", env=("DARL_SPOOL", "DARL_OOD_LOG")
    ),
    cluster: ClusterOptions = CLUSTER,
    stream: str = STREAM,
    since: datetime | None = setting(
        None,
        "Read traffic since then: 30m, 12h, 7d, 4w or a date.  [default: all]",
        metavar="SPAN",
        env="DARL_SELECT_SINCE",
        parse=parse_since,
    ),
    items: tuple[InputFile, ...] = setting(
        (),
        "Items, JSONL, rendered by the bundle's template; searched by BM25 without --index.",
        env="DARL_ITEMS",
    ),
    index: str | None = setting(
        None,
        "Item index, filled by darl index: supplies texts missing from the log, and the control arm's hits.",
        env="DARL_INDEX",
    ),
    trained: tuple[InputFile, ...] = setting(
        (),
        "Judgments that the bundle was trained on, JSONL: already covered.",
        env="DARL_SELECT_TRAINED",
    ),
    judged: tuple[InputFile, ...] = setting(
        (),
        "Other judgments, JSONL: dev and test parts, earlier cycles.",
        env="DARL_SELECT_JUDGED",
    ),
    control: tuple[InputFile, ...] = setting(
        (), "The control.jsonl and kept.jsonl of the previous selection.", env="DARL_SELECT_CONTROL"
    ),
    dry_run: bool = setting(False, "Print the counts; select nothing and write nothing."),
    as_json: bool = JSON,
    config: SelectConfig = setting(..., "[select]"),
) -> None:
    """Select the queries to label next: OOD queries that the training data of BUNDLE does not cover.

    A random control arm is drawn first, for darl gate. Selecting nothing, when no traffic is OOD, is a valid result
    with exit code 0. The same command resumes a killed run.
    """
    if out is None and not dry_run:
        raise UsageError("no output folder is given", todo="pass --out or --dry-run")
    run = load("trainer.dasa.run", "train")
    from darl_opensearch.bundle import Bundle
    from trainer.dasa.labelled import LabelledQueries

    model = Bundle.open(bundle)
    with contextlib.ExitStack() as open_:
        catalogue = _items(model, items, cluster, index, open_)
        store = _store(spool, cluster, stream, open_)
        training = LabelledQueries.read(
            trained, judged, catalogue.texts, most=config.known_queries, items_per_query=config.items_per_query,
            seed=config.seed,
        )  # fmt: skip
        line = open_.enter_context(progress_line("reading"))
        result = run.select(
            config, model, store, labelled=training, out=out or Path(), items=catalogue, since=since, control=control,
            dry_run=dry_run, report=line.report,
        )  # fmt: skip
    emit(result.to_json() | {"out": str(out) if out and not dry_run else None}, as_json=as_json,
         text=_summary(result, out))  # fmt: skip


def _store(spool: Path | None, cluster: ClusterOptions, stream: str, open_: contextlib.ExitStack) -> OodStore:
    from darl_opensearch.connect import connect
    from darl_opensearch.ood.store import SpoolStore, StreamStore

    if spool is not None:
        return open_.enter_context(SpoolStore(spool))
    return StreamStore(connect(cluster), stream=stream, where=cluster.where)


def _items(
    model: Bundle, files: tuple[Path, ...], cluster: ClusterOptions, index: str | None, open_: contextlib.ExitStack
) -> Any:
    from darl_opensearch.records.items import describe_blank, read_items
    from trainer.dasa.items import NO_ITEMS, Items

    blank: Counter[str] = Counter()
    texts = {item.item_id: item.text for path in files for item in read_items(path, model.renderer, blank).values()}
    if blank:
        note(f"warning: {describe_blank(blank)}")
    if index is None:
        return Items.of_texts(texts) if texts else NO_ITEMS
    from darl_opensearch.cluster.item_index import open_first_stage
    from darl_opensearch.connect import connect
    from darl_opensearch.ood.store import join_texts

    client, where, field = connect(cluster), cluster.where, model.card.text_field

    def look_up(ids: list[str]) -> Mapping[str, str]:
        missing = [item for item in ids if item not in texts]
        joined = join_texts(client, index, missing, text_field=field, where=where).texts if missing else {}
        return {item: texts[item] for item in ids if item in texts} | dict(joined)

    return Items(look_up, open_.enter_context(open_first_stage(cluster, index)))


def _summary(result: Any, out: Path | None) -> str:
    from trainer.dasa.report import DROPPED

    log, arm = result.log, result.control
    lines = [f"{log['requests']} requests for {log['queries']} distinct queries in {log['where']}"]
    lines += [f"{count:>9} {text}" for name, text in DROPPED.items() if (count := result.dropped[name])]
    lines.append(f"{result.candidates:>9} candidates")
    if result.dry_run:
        return "\n".join([*lines, "Nothing was selected or written."])
    chosen = result.selected
    lines.append(f"Selected {chosen['pairs']} pairs of {chosen['queries']} queries by {result.selector['name']}.")
    lines.append(f"Control arm: {arm['pairs']} pairs of {arm['queries']} queries sampled, {arm['kept']} queries kept.")
    if arm["unusable"]:
        lines.append(
            f"{arm['unusable']} queries of the control arm have fewer than two items: pass --index or --items."
        )
    if result.empty:
        lines.append(f"Nothing is selected: {result.why_empty}.")
    lines.append(f"Written to {out}.")
    return "\n".join(lines)
