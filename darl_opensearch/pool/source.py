"""A pool as shards, item texts looked up: the reading side of every engine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.pool.catalogue import ItemTexts
from darl_opensearch.pool.pairs import Pair, Shard, group_pairs, read_pairs
from darl_opensearch.records.values import unknown_item


@dataclass(frozen=True)
class PairSource:
    """Where a pool is read from. Small: it travels to the process that reads.

    :param pairs: JSONL (plain or ``.gz``) or Parquet.
    :param items: the file that item ids were looked up in, for error messages; None without.
    :param catalogue: its index, or None without.
    :param most_chars: characters of a text that are kept; what follows cannot reach the model.
    """

    pairs: Path
    items: Path | None
    catalogue: Path | None
    shard_pairs: int
    most_chars: int

    def shards(self, done: Container[int] = ()) -> Iterator[Shard]:
        """Read the pool, one shard at a time.

        :param done: numbers of shards to pass over; their texts are not looked up.
        :yields: the other shards, in order.
        :raises InputError: for a row that is no pair, or an item that is not in the catalogue.
        """
        with contextlib.ExitStack() as stack:
            catalogue = stack.enter_context(ItemTexts.open(self.catalogue)) if self.catalogue else None
            for shard in group_pairs(read_pairs(self.pairs, items=catalogue is not None), self.shard_pairs):
                if shard.index not in done:
                    yield dataclasses.replace(shard, pairs=self._with_texts(shard.pairs, catalogue))

    def _with_texts(self, pairs: tuple[Pair, ...], catalogue: ItemTexts | None) -> tuple[Pair, ...]:
        wanted = [pair.item_id for pair in pairs if pair.text is None and pair.item_id is not None]
        texts = catalogue.texts(wanted) if catalogue else {}
        return tuple(self._with_text(pair, texts) for pair in pairs)

    def _with_text(self, pair: Pair, texts: dict[str, str]) -> Pair:
        text = pair.text if pair.text is not None else texts.get(str(pair.item_id))
        if text is None:
            raise unknown_item(pair.item_id, pair.where, todo=f"add it to {self.items}, or drop the line")
        return dataclasses.replace(pair, text=text[: self.most_chars])
