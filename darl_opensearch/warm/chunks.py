"""Finding the items that have no state yet, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import DarlError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.states import StateKeys, StateStore
from darl_opensearch.text import NoTextError

CHUNK = 512  # items looked up and encoded at a time


@dataclass(frozen=True)
class ItemChunk:
    """Items that were read together, of which the missing ones are encoded together.

    States vary by float noise with their batch, so batches never cross chunks: both engines make the same bytes.

    :param index: its number, from 0.
    :param where: file and line of its first item.
    :param read: items read.
    :param without_text: items that have no text.
    :param distinct: texts that no earlier chunk had.
    :param missing: texts without a state, by key.
    """

    index: int
    where: str
    read: int
    without_text: int
    distinct: int
    missing: Mapping[bytes, str]

    def killed_workers(self, count: int) -> DarlError:
        """Make the error for a chunk that killed its worker each time."""
        return DarlError(
            f"the {self.read} items from here on killed their worker {count} times", where=self.where,
            todo="check the workers' memory",
        )  # fmt: skip


def render_items(bundle: Bundle, paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Read and render the items of JSONL files.

    :yields: file and line for error messages, and the text; ``""`` of an item without text.
    """
    for path in paths:
        for where, row in read_jsonl(path):
            try:
                yield where, bundle.renderer(row, where=where)
            except NoTextError:
                yield where, ""


def find_missing(
    bundle: Bundle, items: Iterable[tuple[str, str]], keys: StateKeys, store: StateStore
) -> Iterator[ItemChunk]:
    """Read items and leave out those whose state is in the store; each chunk of a long item has its own.

    :param items: where each is from, for error messages, and its text as a search sends it.
    """
    rest, index = iter(items), 0
    seen: set[bytes] = set()
    while chunk := list(islice(rest, CHUNK)):
        texts = [text for _, text in chunk if text]
        parts = [part for text in texts for part in bundle.renderer.chunks(text)]
        new = {key: part for part in parts if (key := keys.of(part)) not in seen}
        seen |= new.keys()
        stored = store.contains(list(new))
        missing = {key: text for key, text in new.items() if key not in stored}
        yield ItemChunk(index, chunk[0][0], len(chunk), len(chunk) - len(texts), len(new), missing)
        index += 1
