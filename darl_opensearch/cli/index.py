"""``darl index``: items into an index."""

from __future__ import annotations

from pathlib import Path

import click

from darl_opensearch.cli.output import emit, emit_calls, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, DRY_RUN, JSON, bundle_argument
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError
from darl_opensearch.records.items import describe_blank
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options
from darl_opensearch.warm import WarmOptions


@click.command()
@bundle_argument
@click.argument("items", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def cli(
    bundle: Path,
    items: Path,
    cluster: ClusterOptions = CLUSTER,
    index: str = setting(..., "Index to load into.", env="DARL_INDEX"),
    recreate: bool = setting(False, "Delete the index first."),
    shards: int = setting(1, "Primary shards of a new index.", least=1, most=100, env="DARL_SHARDS"),
    warm: bool = setting(
        False, "Also encode the items, as darl warm does, so that the first search finds their states in --states."
    ),
    options: WarmOptions = setting(..., "the item states"),
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Render ITEMS (JSONL or .jsonl.gz, one item per line) with BUNDLE's template and load them into an index.

    The whole file is checked before anything is sent. Items keep their ids, so loading a file again changes nothing.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.cluster import Cluster, load_items
    from darl_opensearch.cluster.without_text import describe_documents_without_text
    from darl_opensearch.warm import warm_files

    if warm and options.states is None:
        raise UsageError("--warm requires --states", todo="pass the folder that darl serve uses")
    target = Cluster.open(cluster, dry_run=dry_run)
    with progress_line("loading") as line:
        report = load_items(
            target,
            bundle,
            items,
            index,
            recreate=recreate,
            shards=shards,
            on_item=line.count,
        )
    if report.without_text:
        note(f"warning: {describe_blank(dict.fromkeys(report.without_text, 0))}")
    if dry_run:
        emit_calls(target.calls)
        return
    field = Bundle.open(bundle, verify=False).card.text_field
    if report.index_without_text is None:
        note(f"warning: documents without {field} could not be counted: this user may not search the index")
    elif report.index_without_text:
        note(f"warning: {describe_documents_without_text(report.index_without_text, field)}")
    if report.beyond_chunks:
        note(f"warning: {report.beyond_chunks} items have text beyond their last chunk, which is never scored")
    if not as_json:
        report.check()
    text = f"{report.indexed} items in {report.index}" + (", newly created" if report.created else "")
    result = report.to_json()
    if warm:
        with progress_line("encoding") as line:
            warmed = warm_files(Bundle.open(bundle), [items], options, on_item=line.count)
        result, text = result | {"states": warmed.to_json()}, f"{text}; {warmed.describe()}"
    emit(result, as_json=as_json, text=text)
    report.check()
    if warm:
        warmed.check(options.states)
