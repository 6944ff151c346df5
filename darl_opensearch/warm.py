"""Encoding items before the first search needs their states: of files, of an index, or those that are logged most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.item_index import count_items, scan_texts
from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.reading import open_bytes
from darl_opensearch.ood.store import StreamStore, join_texts
from darl_opensearch.ood.stream import STREAM
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.scoring.scorer import Scorer
from darl_opensearch.settings import setting
from darl_opensearch.states import StateStore
from darl_opensearch.states.options import StatesPlace, parse_item_count

CHUNK = 512  # items looked up and encoded at a time
OnItem = Callable[[int, int], object]


def _silent(done: int, total: int) -> None:
    """Show nothing."""


class WarmOptions(StatesPlace):
    """Where item states are kept, and how they are encoded."""

    provider: Provider = setting("cpu", "where the graph runs", env="DARL_PROVIDER")
    threads: int | None = setting(
        None, "batches encoded in parallel.  [default: the cores available to this process]", least=1,
        env="DARL_THREADS",
    )  # fmt: skip


@dataclass(frozen=True)
class WarmReport:
    """What became of the items.

    :param items: distinct texts.
    :param missing: those without a state; encoded now, except in a dry run.
    :param encoded: states made now.
    :param store: the store's counters.
    """

    items: int
    missing: int
    encoded: int
    store: dict[str, int]

    def to_json(self) -> dict[str, int]:
        """Render as JSON."""
        return {
            "items": self.items, "there": self.items - self.missing, "encoded": self.encoded, "missing": self.missing,
            **self.store,
        }  # fmt: skip

    def describe(self) -> str:
        """Describe in one line."""
        there = self.items - self.missing
        if self.encoded < self.missing:
            return f"{there} of {self.items} items have states; {self.missing} would be encoded"
        text, evicted = f"{self.encoded} items encoded, {there} were there", self.store["evicted"]
        return text + (f"; {evicted} older states had to go: raise --states-bytes" if evicted else "")

    def check(self, folder: Path | None) -> None:
        """Fail unless all states were kept.

        :raises DarlError: naming the folder.
        """
        if self.store["not_kept"] or self.store["errors"]:
            raise DarlError(
                f"{self.store['not_kept']} states could not be kept", where=str(folder),
                todo="free the disk, then run this again",
            )  # fmt: skip


def warm_files(
    bundle: Bundle, paths: Iterable[Path], options: WarmOptions, *, dry_run: bool = False, on_item: OnItem = _silent,
) -> WarmReport:  # fmt: skip
    """Encode the items of JSONL files, see :func:`warm_states`."""
    paths = list(paths)
    texts = (bundle.renderer(row, where=where) for path in paths for where, row in read_jsonl(path))
    total = sum(map(_count_lines, paths))
    return warm_states(bundle, texts, options, total=total, dry_run=dry_run, on_item=on_item)


def warm_index(
    bundle: Bundle, cluster: Cluster, index: str, items: str, options: WarmOptions, *, stream: str = STREAM,
    on_item: OnItem = _silent,
) -> WarmReport:  # fmt: skip
    """Encode the items of an index, see :func:`warm_states`.

    :param items: ``all``, or as a number those that the OOD log has most pairs of.
    :param stream: the OOD log's data stream.
    :raises UsageError: for other ``items``, or an index without item texts.
    """
    count = parse_item_count(items)
    if count is None:
        texts, total = scan_texts(cluster, index), count_items(cluster, index)
    else:
        ids = StreamStore(cluster.client, stream=stream, where=cluster.url).most_logged(count)
        by_id = join_texts(cluster.client, index, ids, where=cluster.url).texts
        texts, total = iter(by_id.values()), len(by_id)
    report = warm_states(bundle, texts, options, total=total, on_item=on_item)
    if not report.items:
        raise UsageError(
            f"no item texts to warm in index {index!r}", where=cluster.url,
            todo="load the items with darl index" if count is None else "pass --warm all: nothing has been logged yet",
        )  # fmt: skip
    return report


def warm_states(
    bundle: Bundle, texts: Iterable[str], options: WarmOptions, *, total: int = 0, dry_run: bool = False,
    on_item: OnItem = _silent,
) -> WarmReport:  # fmt: skip
    """Encode items and keep their states; those that are there already are passed over, so a killed run goes on.

    :param texts: as a search sends them.
    :param total: how many there are about.
    :param on_item: called with the texts read so far and all texts.
    :raises UsageError: without a folder.
    :raises DarlError: if the bundle has no graphs for states.
    """
    if options.states is None:
        raise UsageError("the item states have no folder", todo="pass --states FOLDER, the one that darl serve uses")
    if not bundle.has_states(int8=options.int8):
        raise DarlError(
            "this bundle's items have no states of their own" + (" in int8" if options.int8 else ""),
            where=str(bundle.path), todo="states are for models of the split backbone: export the model again",
        )  # fmt: skip
    read = missing = 0
    seen: set[bytes] = set()
    with (
        StateStore(options.states, disk_bytes=options.states_bytes, memory_bytes=0) as store,
        Scorer.open(
            bundle, provider=options.provider, threads=options.threads, int8=options.int8, states=store,
            require_provider=True,
        ) as scorer,
    ):  # fmt: skip
        halves: Any = scorer.halves
        for chunk in _split(iter(texts)):
            new = {key: text for text in chunk if (key := halves.keys.of(text)) not in seen}
            seen |= new.keys()
            for key in store.contains(list(new)):
                del new[key]
            missing += len(new)
            if not dry_run:
                halves.fill(new, wait=True)
            read += len(chunk)
            on_item(read, max(read, total))
        store.flush()
        return WarmReport(len(seen), missing, 0 if dry_run else missing, store.to_json())


def _split(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0  # a pipe can be read once only
    with open_bytes(path) as file:
        return sum(1 for _ in file)
