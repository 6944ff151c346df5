"""Encoding the items of files on Ray: workers encode, the store is written where the command runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import CARD, Bundle
from darl_opensearch.io.digest import digest_file
from darl_opensearch.io.jsonl import check_rereadable
from darl_opensearch.pool.engine import EngineOptions
from darl_opensearch.pool.on_ray import run_on_ray
from darl_opensearch.pool.worker import open_same_bundle
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import ItemState, StateKeys, StateStore
from darl_opensearch.warm.chunks import ItemChunk, find_missing, render_items
from darl_opensearch.warm.options import WarmOptions
from darl_opensearch.warm.report import WarmCount, WarmReport


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk on its way back.

    :param states: states of the missing items, by key.
    """

    read: int
    distinct: int
    states: Mapping[bytes, ItemState]
    without_text: int


class ChunkEncoder:
    """Encodes chunks in a worker; opens the bundle once.

    :raises BundleError: if this machine has another bundle at that path.
    """

    def __init__(self, bundle: Path, digest: str, options: WarmOptions) -> None:
        self._scorer = Scorer.open(
            open_same_bundle(bundle, digest), provider=options.provider, threads=options.threads, int8=options.int8,
            states=StateStore(None, memory_bytes=0), require_provider=True,
        )  # fmt: skip

    def __call__(self, chunk: ItemChunk) -> EncodedChunk:
        """Encode the missing items of a chunk."""
        halves: Any = self._scorer.halves
        return EncodedChunk(chunk.read, chunk.distinct, halves.fill(chunk.missing), chunk.without_text)


def warm_on_ray(
    bundle: Bundle, paths: Sequence[Path], options: WarmOptions, engine: EngineOptions, count: WarmCount
) -> WarmReport:
    """Encode the items of files on Ray; otherwise as on this machine, to the last bit.

    :raises InputError: for a pipe, which the task that reads cannot open.
    :raises UsageError: without a folder.
    :raises DarlError: if the bundle has no graphs for states, or as :func:`run_on_ray`.
    """
    for path in paths:
        check_rereadable(path)
    with options.open_store(bundle) as store:

        def keep(_index: int, chunk: EncodedChunk) -> None:
            stored = store.get(list(chunk.states))  # by another process in the meantime
            store.put({key: state for key, state in chunk.states.items() if key not in stored}, wait=True)
            count.add(chunk.read, chunk.distinct, len(chunk.states), chunk.without_text)

        folder, threads = bundle.path.absolute(), options.threads or 1
        absolute = [path.absolute() for path in paths]  # Ray's tasks run in other folders
        encoding = dataclasses.replace(options, threads=threads, states=options.states and options.states.absolute())
        run_on_ray(
            functools.partial(_read_missing, folder, absolute, encoding),
            functools.partial(ChunkEncoder, folder, digest_file(folder / CARD), encoding), keep, engine,
            provider=options.provider, threads=threads,
        )  # fmt: skip
        return count.report(store)


def _read_missing(folder: Path, paths: Sequence[Path], options: WarmOptions) -> Iterator[ItemChunk]:
    bundle = Bundle.open(folder)
    with options.open_store(bundle) as store:  # read only: the command writes it
        keys = StateKeys.of_bundle(bundle, int8=options.int8)
        yield from find_missing(bundle, render_items(bundle, paths), keys, store)
