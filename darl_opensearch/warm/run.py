"""Encoding the items of files or of an index."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.item_index import count_items, scan_texts
from darl_opensearch.cluster.without_text import count_documents_without_text
from darl_opensearch.errors import UsageError
from darl_opensearch.io.reading import open_bytes
from darl_opensearch.ood.store import StreamStore, join_texts
from darl_opensearch.ood.stream import STREAM
from darl_opensearch.pool.engine import EngineOptions
from darl_opensearch.scoring.scorer import Scorer
from darl_opensearch.states.options import parse_item_count
from darl_opensearch.warm.chunks import find_missing, render_items
from darl_opensearch.warm.options import WarmOptions
from darl_opensearch.warm.report import OnItem, WarmCount, WarmReport


def warm_files(
    bundle: Bundle, paths: Iterable[Path], options: WarmOptions, *, engine: EngineOptions | None = None,
    dry_run: bool = False, on_item: OnItem | None = None,
) -> WarmReport:  # fmt: skip
    """Encode the items of JSONL files and keep their states.

    Those whose states are there already are passed over, so a killed run goes on.

    :param engine: None: this machine.
    :param on_item: called with the texts read so far and all texts.
    :raises UsageError: without a folder.
    :raises DarlError: if the bundle has no graphs for states.
    """
    paths = list(paths)
    count = WarmCount(sum(map(_count_lines, paths)), on_item)
    if engine is not None and engine.engine == "ray" and not dry_run:
        from darl_opensearch.warm.on_ray import warm_on_ray

        return warm_on_ray(bundle, paths, options, engine, count)
    return _warm_here(bundle, render_items(bundle, paths), options, count, dry_run=dry_run)


def warm_index(
    bundle: Bundle, cluster: Cluster, index: str, items: str, options: WarmOptions, *, stream: str = STREAM,
    on_item: OnItem | None = None,
) -> WarmReport:  # fmt: skip
    """Encode the items of an index, see :func:`warm_files`.

    :param items: ``all``, or as a number those that the OOD log has most pairs of.
    :param stream: the OOD log's data stream.
    :raises UsageError: for other ``items``, or an index without item texts.
    """
    count, without_text = parse_item_count(items), 0
    if count is None:
        texts, total = scan_texts(cluster, index, bundle.card.text_field), count_items(cluster, index)
        without_text = sum(count_documents_without_text(cluster, index, bundle.card.text_field).values())
    else:
        ids = StreamStore(cluster.client, stream=stream, where=cluster.url).most_logged(count)
        by_id = join_texts(cluster.client, index, ids, text_field=bundle.card.text_field, where=cluster.url).texts
        texts, total = iter(by_id.values()), len(by_id)
    rows = zip(repeat(cluster.url), texts)
    report = _warm_here(bundle, rows, options, WarmCount(total - without_text, on_item, without_text=without_text))
    if not report.items:
        raise UsageError(
            f"no item texts to warm in index {index!r}", where=cluster.url,
            todo="load the items with darl index" if count is None else "pass --warm all: nothing has been logged yet",
        )  # fmt: skip
    return report


def _warm_here(
    bundle: Bundle, items: Iterable[tuple[str, str]], options: WarmOptions, count: WarmCount, *, dry_run: bool = False,
) -> WarmReport:  # fmt: skip
    with (
        options.open_store(bundle) as store,
        Scorer.open(
            bundle, provider=options.provider, threads=options.threads, int8=options.int8, states=store,
            require_provider=True,
        ) as scorer,
    ):  # fmt: skip
        halves: Any = scorer.halves
        for chunk in find_missing(bundle, items, halves.keys, store):
            if not dry_run:
                halves.fill(chunk.missing, wait=True)
            count.add(chunk.read, chunk.distinct, len(chunk.missing), chunk.without_text)
        return count.report(store, dry_run=dry_run)


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0  # a pipe can be read once only
    with open_bytes(path) as file:
        return sum(1 for _ in file)
