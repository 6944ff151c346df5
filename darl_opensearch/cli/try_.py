"""``darl try``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import note, progress_line
from darl_opensearch.cli.shared import CLUSTER, bundle_argument
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError
from darl_opensearch.settings import FilePath, FolderPath, InputFile, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.search import PipelineSearch
    from darl_opensearch.tryout.candidates import ClusterRetriever, FileRetriever, Retriever
    from darl_opensearch.tryout.versions import TriedVersion


@click.command()
@bundle_argument
@with_options
def cli(
    bundle: Path,
    against: InputFolder | None = setting(None, "Another bundle that ranks the same candidates.", env="DARL_AGAINST"),
    items: tuple[InputFile, ...] = setting(
        (), "Items to search with BM25 on this machine, JSONL; without a cluster.", env="DARL_ITEMS"
    ),
    cluster: ClusterOptions = CLUSTER,
    index: str | None = setting(None, "Index to search, filled by darl index with BUNDLE.", env="DARL_INDEX"),
    pipeline: str | None = setting(
        None, "Rerank through this search pipeline, which serves BUNDLE.  [default: rerank in this process]",
        env="DARL_PIPELINE",
    ),
    size: int = setting(10, "Number of hits to show.", least=1, most=50),
    window: int = setting(50, "Candidates to retrieve and rerank; a pipeline has its own number.", least=1, most=1000),
    states: FolderPath | None = setting(
        None, "Folder of the item states, as for darl serve.  [default: in memory]", env="DARL_STATES"
    ),
    judgments: FilePath | None = setting(
        None, "Let grades be marked on the page; they are written to this file, JSONL, as darl train reads it.",
        env="DARL_JUDGMENTS",
    ),
    port: int = setting(
        8768, "Port of the page on 127.0.0.1; 0: any free port.", least=0, most=65_535, env="DARL_TRY_PORT"
    ),
) -> None:  # fmt: skip
    """Try BUNDLE on a page: type a query and compare its first-stage and reranked order.

    The page shows grades, out-of-distribution hits, latency by stage, and which tokens of an item are like those of the
    query. It searches --items, or --index of a cluster. It is served on 127.0.0.1 until it is stopped.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.states import StateStore
    from darl_opensearch.tryout.marked import MarkedJudgments
    from darl_opensearch.tryout.page import create_tryout_app
    from darl_opensearch.tryout.session import TryOut
    from darl_opensearch.tryout.versions import ServedVersion, TriedVersion, name_versions
    from darl_opensearch.web.serve import serve_page

    if bool(items) == bool(index):
        raise UsageError(
            "items and an index are both given" if items else "there is nothing to search",
            todo="pass either --items or --index (DARL_ITEMS, DARL_INDEX)",
        )
    if pipeline and not index:
        raise UsageError("a pipeline is given, but no index", todo="pass --index, or unset DARL_PIPELINE")
    bundles = [Bundle.open(path) for path in (bundle, against) if path is not None]
    labels = name_versions(bundles)
    with ExitStack() as stack:
        scale = bundles[0].card.scale
        marked = stack.enter_context(MarkedJudgments.holding(judgments, scale.k)) if judgments else None
        store = stack.enter_context(StateStore(states))
        retriever: Retriever
        versions: list[TriedVersion] = []
        if index:
            search, in_index = _open_index(bundles, cluster, index, pipeline)
            retriever = in_index
            if pipeline:
                window = search.search("warm up", size=size).window
                versions = [ServedVersion(bundles[0], labels[0], store, search, in_index)]
        else:
            retriever = _read_items(bundles, items)
        for place in range(len(versions), len(bundles)):
            versions.append(TriedVersion(bundles[place], labels[place], place, store))
        for version in versions:
            stack.callback(version.close)
            version.scorer.warm_up()
        tryout = TryOut(retriever, versions, size=size, window=max(size, window), marked=marked)
        serve_page(create_tryout_app(tryout), port, lambda url: note(f"try it at {url} (press Ctrl-C to stop)"))


def _read_items(bundles: Sequence[Bundle], files: Sequence[Path]) -> FileRetriever:
    from darl_opensearch.records.items import describe_blank
    from darl_opensearch.tryout.candidates import FileRetriever

    blank: Counter[str] = Counter()
    with progress_line("reading items") as line:
        retriever = FileRetriever(bundles, files, blank, lambda count: line.report("reading items", count))
    if blank:
        note(f"warning: {describe_blank(blank)}")
    return retriever


def _open_index(
    bundles: Sequence[Bundle], cluster: ClusterOptions, index: str, pipeline: str | None
) -> tuple[PipelineSearch, ClusterRetriever]:
    """Open an index; with a pipeline, one that serves the first bundle.

    :raises ClusterError: if the index cannot be searched.
    """
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.search import PipelineSearch
    from darl_opensearch.tryout.candidates import ClusterRetriever

    target = Cluster.open(cluster)
    target.identify()
    search = PipelineSearch(target.client, bundles[0], index, pipeline or "darl")
    retriever = ClusterRetriever(search, bundles)
    retriever.retrieve("warm up", 1)
    card, served = bundles[0].card, search.served if pipeline else None
    if served is not None and (served.name, served.version) != (card.name, card.version):
        raise UsageError(
            f"pipeline {pipeline!r} serves {served.label}, not {card.name} {card.version}",
            todo="pass the bundle that it serves, or leave --pipeline out",
        )
    return search, retriever
