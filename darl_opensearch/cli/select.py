"""``darl select``."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.cluster_options import cluster_options, stream_option
from darl_opensearch.cli.output import emit, json_option, progress_line
from darl_opensearch.cli.times import since_callback
from darl_opensearch.errors import UsageError, load

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.connect import ClusterOptions
    from darl_opensearch.ood.store import OodStore

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _files(name: str, variable: str, text: str, **values: Any) -> Callable[[Any], Any]:
    return click.option(
        name, type=FILE, multiple=True, envvar=variable, show_envvar=True, help=f"{text} May be repeated.", **values
    )


class _Settings(click.Command):
    """The command, with an option for each key of the table ``[select]``: they are read when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Add the options of the table."""
        *first, last = super().get_params(ctx)  # --help stays the last
        return [*first, *_options(), last]


def _options() -> Iterator[click.Option]:
    config = load("trainer.dasa.config", "train").SelectConfig
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        flag, variable = "--" + field.name.replace("_", "-"), f"DARL_SELECT_{field.name.upper()}"
        values: dict[str, Any] = {"help": field.metadata["help"][:1].upper() + field.metadata["help"][1:] + "."}
        if field.name == "params":
            flag = "--param"
            values |= {"multiple": True, "metavar": "KEY=VALUE", "help": "Parameter of the selector. May be repeated."}
        elif typing.get_origin(hints[field.name]) is tuple:
            values |= {"multiple": True, "help": values["help"].rstrip(".") + ". May be repeated."}
        else:
            values |= {"type": hints[field.name], "default": field.default, "show_default": True}
        yield click.Option([flag, f"set_{field.name}"], envvar=variable, show_envvar=True, **values)


@click.command(cls=_Settings)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DARL_SELECT_OUT",
    show_envvar=True,
    help="Folder for selected.jsonl, control.jsonl, kept.jsonl and report.json. Needed but for --dry-run.",
)
@click.option(
    "--spool",
    envvar=["DARL_SPOOL", "DARL_OOD_LOG"],
    show_envvar=True,
    type=FILE,
    help="Read this spool, and not the data stream of the cluster at --url.",
)
@cluster_options
@stream_option
@click.option(
    "--since",
    callback=since_callback,
    metavar="SPAN",
    envvar="DARL_SELECT_SINCE",
    show_envvar=True,
    help="From when: 30m, 12h, 7d, 4w or a date. All by default.",
)
@_files("--items", "DARL_ITEMS", "Items, JSONL, rendered by the bundle's template; searched by BM25 but for --index.")
@click.option(
    "--index",
    envvar="DARL_INDEX",
    show_envvar=True,
    help="The item index, filled by darl index: texts that the log lacks, and what the control arm finds there.",
)
@_files("--trained", "DARL_SELECT_TRAINED", "Judgments that the bundle was trained on, JSONL: what is covered already.")
@_files("--judged", "DARL_SELECT_JUDGED", "Other judgments, JSONL: dev and test part, earlier cycles.")
@_files("--control", "DARL_SELECT_CONTROL", "control.jsonl and kept.jsonl of the selection before this one.")
@click.option("--dry-run", is_flag=True, help="Count, choose nothing, write nothing.")
@json_option
def cli(
    bundle: Path,
    out: Path | None,
    spool: Path | None,
    cluster: ClusterOptions,
    stream: str,
    since: datetime | None,
    items: tuple[Path, ...],
    index: str | None,
    trained: tuple[Path, ...],
    judged: tuple[Path, ...],
    control: tuple[Path, ...],
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Choose what is judged next: what the log found strange and the training of BUNDLE does not cover.

    A random control arm is drawn first, for darl gate. When nothing was strange, nothing is selected: that is a
    result, and the exit code is 0. Started again, a run that was killed goes on.
    """
    if out is None and not dry_run:
        raise UsageError("there is no folder to write to", todo="name one by --out, or pass --dry-run")
    run = load("trainer.dasa.run", "train")
    from darl_opensearch.bundle import Bundle
    from trainer.dasa.known import Known

    config = _config(settings)
    model = Bundle.open(bundle)
    with contextlib.ExitStack() as open_:
        catalogue = _items(model, items, cluster, index, open_)
        store = _store(spool, cluster, stream, open_)
        known = Known.read(
            trained, judged, catalogue.texts, most=config.known_queries, items_per_query=config.items_per_query,
            seed=config.seed,
        )  # fmt: skip
        line = open_.enter_context(progress_line("reading"))
        result = run.select(
            config, model, store, known=known, out=out or Path(), items=catalogue, since=since, control=control,
            dry_run=dry_run, report=line.report,
        )  # fmt: skip
    emit(result.to_json() | {"out": str(out) if out and not dry_run else None}, as_json=as_json,
         text=_summary(result, out))  # fmt: skip


def _config(settings: Mapping[str, Any]) -> Any:
    from trainer.dasa.config import SelectConfig
    from trainer.toml_tables import build

    values = {name.removeprefix("set_"): value for name, value in settings.items()}
    values["params"] = dict(_param(text) for text in values["params"])
    return build(SelectConfig, values, "the command line", "select")


def _param(text: str) -> tuple[str, Any]:
    from trainer.toml_tables import read_value

    key, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"--param {text!r} is not key=value", todo="write for example --param traffic=1.0")
    return key.strip(), read_value(value)


def _store(spool: Path | None, cluster: ClusterOptions, stream: str, open_: contextlib.ExitStack) -> OodStore:
    from darl_opensearch.connect import connect
    from darl_opensearch.io.urls import without_secrets
    from darl_opensearch.ood.store import SpoolStore, StreamStore

    if spool is not None:
        return open_.enter_context(SpoolStore(spool))
    return StreamStore(connect(cluster), stream=stream, where=without_secrets(cluster.url))


def _items(
    model: Bundle, files: tuple[Path, ...], cluster: ClusterOptions, index: str | None, open_: contextlib.ExitStack
) -> Any:
    from darl_opensearch.records.items import read_items
    from trainer.dasa.items import NO_ITEMS, Items

    texts = {item.item_id: item.text for path in files for item in read_items(path, model.renderer).values()}
    if index is None:
        return Items.of_texts(texts) if texts else NO_ITEMS
    from darl_opensearch.cluster.item_index import item_search
    from darl_opensearch.connect import connect
    from darl_opensearch.io.urls import without_secrets
    from darl_opensearch.ood.store import join_texts

    client, where = connect(cluster), without_secrets(cluster.url)

    def look_up(ids: list[str]) -> Mapping[str, str]:
        missing = [item for item in ids if item not in texts]
        joined = join_texts(client, index, missing, where=where).texts if missing else {}
        return {item: texts[item] for item in ids if item in texts} | dict(joined)

    return Items(look_up, open_.enter_context(item_search(cluster, index)))


def _summary(result: Any, out: Path | None) -> str:
    from trainer.dasa.report import DROPPED

    log, arm = result.log, result.control
    lines = [f"{log['requests']} requests for {log['queries']} distinct queries in {log['where']}"]
    lines += [f"{count:>9} {text}" for name, text in DROPPED.items() if (count := result.dropped[name])]
    lines.append(f"{result.candidates:>9} to choose from")
    if result.dry_run:
        return "\n".join([*lines, "Nothing was chosen or written."])
    chosen = result.selected
    lines.append(f"Selected {chosen['pairs']} pairs of {chosen['queries']} queries by {result.selector['name']}.")
    lines.append(f"Control arm: {arm['pairs']} pairs of {arm['queries']} queries drawn, {arm['kept']} queries kept.")
    if arm["unusable"]:
        lines.append(
            f"{arm['unusable']} queries of the control arm have fewer than two items: pass --index or --items."
        )
    if result.empty:
        lines.append(f"Nothing is selected: {result.why_empty}.")
    lines.append(f"Written to {out}.")
    return "\n".join(lines)
