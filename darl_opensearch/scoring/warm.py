"""Encoding items before the first search needs their states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.reading import open_bytes
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.scoring.scorer import Scorer
from darl_opensearch.settings import FolderPath, Settings, setting
from darl_opensearch.states import DISK_BYTES, StateStore

CHUNK = 512  # items looked up and encoded at a time


class WarmOptions(Settings):
    """Where item states are kept, and how they are encoded."""

    states: FolderPath | None = setting(None, "folder of the item states, as for darl serve", env="DARL_STATES")
    states_bytes: int = setting(
        DISK_BYTES, "maximum size of that folder; the oldest states go first", least=2**20, env="DARL_STATES_BYTES"
    )
    int8: bool = setting(False, "encode with the quantised graph, for scorers that serve it", env="DARL_INT8")
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


def warm_states(
    bundle: Bundle, paths: Iterable[Path], options: WarmOptions, *, dry_run: bool = False,
    on_item: Callable[[int, int], object] = lambda done, total: None,
) -> WarmReport:  # fmt: skip
    """Encode items and keep their states; those that are there already are passed over, so a killed run goes on.

    :param paths: JSONL, one item per line.
    :param on_item: called with the lines read so far and all lines.
    :raises UsageError: without a folder.
    :raises DarlError: if the bundle has no graphs for states.
    """
    paths = list(paths)
    if options.states is None:
        raise UsageError("the item states have no folder", todo="pass --states FOLDER, the one that darl serve uses")
    if not bundle.has_states(int8=options.int8):
        raise DarlError(
            "this bundle's items have no states of their own" + (" in int8" if options.int8 else ""),
            where=str(bundle.path), todo="states are for models of the split backbone: export the model again",
        )  # fmt: skip
    total = sum(_count_lines(path) for path in paths)
    texts = (bundle.renderer(row, where=where) for path in paths for where, row in read_jsonl(path))
    read = missing = encoded = 0
    seen: set[bytes] = set()
    with (
        StateStore(options.states, disk_bytes=options.states_bytes, memory_bytes=0) as store,
        Scorer.open(
            bundle, provider=options.provider, threads=options.threads, int8=options.int8, states=store,
            require_provider=True,
        ) as scorer,
    ):  # fmt: skip
        halves: Any = scorer.halves
        for chunk in _split(texts):
            new = {key: text for text in chunk if (key := halves.keys.of(text)) not in seen}
            seen |= new.keys()
            for key in store.contains(list(new)):
                del new[key]
            missing += len(new)
            if not dry_run:
                halves.fill(new, wait=True)
                encoded += len(new)
            read += len(chunk)
            on_item(read, max(read, total))
        store.flush()
        return WarmReport(len(seen), missing, encoded, store.to_json())


def _split(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0  # a pipe can be read once only
    with open_bytes(path) as file:
        return sum(1 for _ in file)
