"""Reading a pool in shards, with item texts looked up."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.errors import InputError, short
from darl_opensearch.pool.catalogue import ItemTexts
from darl_opensearch.pool.pairs import Pair, Shard, group_pairs, read_pairs
from darl_opensearch.records.values import unknown_item


@dataclass(frozen=True)
class PairSource:
    """The files of a pool. Small, because it is sent to the process that reads them.

    :param pairs: JSONL (plain or ``.gz``) or Parquet.
    :param items: the item file, for error messages, or None.
    :param catalogue: the index of the items, or None.
    :param most_chars: maximum characters of a text; the rest cannot reach the model.
    """

    pairs: Path
    items: Path | None
    catalogue: Path | None
    shard_pairs: int
    most_chars: int

    def shards(self, done: Container[int] = ()) -> Iterator[Shard]:
        """Read the pool, one shard at a time.

        :param done: numbers of shards to skip; their texts are not looked up.
        :raises InputError: for an invalid row, or an item that is not in the catalogue or has no text.
        """
        with contextlib.ExitStack() as stack:
            catalogue = stack.enter_context(ItemTexts.open(self.catalogue)) if self.catalogue else None
            for shard in group_pairs(read_pairs(self.pairs, items=catalogue is not None), self.shard_pairs):
                if shard.index not in done:
                    yield dataclasses.replace(shard, pairs=self._with_texts(shard.pairs, catalogue))

    def _with_texts(self, pairs: tuple[Pair, ...], catalogue: ItemTexts | None) -> tuple[Pair, ...]:
        ids = [pair.item_id for pair in pairs if pair.text is None and pair.item_id is not None]
        texts = catalogue.texts(ids) if catalogue else {}
        return tuple(self._with_text(pair, texts) for pair in pairs)

    def _with_text(self, pair: Pair, texts: dict[str, str]) -> Pair:
        text = pair.text if pair.text is not None else texts.get(str(pair.item_id))
        if text is None:
            raise unknown_item(pair.item_id, pair.where, todo=f"add it to {self.items}, or drop the line")
        if not text and pair.text is None:  # each pair has its row in the results, so none is passed over
            raise InputError(
                f"item {short(pair.item_id)} has no text", where=pair.where,
                todo=f"give it a text in {self.items}, or drop the line",
            )  # fmt: skip
        return dataclasses.replace(pair, text=text[: self.most_chars])
