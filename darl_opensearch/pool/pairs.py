"""Reading a pool of unlabelled pairs, as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from darl_opensearch.errors import DarlError, InputError, short
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.lines import DataLine, LineKind
from darl_opensearch.records.parquet import read_parquet
from darl_opensearch.records.traffic import parse_items

PARQUET = ".parquet"
_ITEMS = LineKind(what="pair", item="optional", text="optional")
_LISTS = LineKind(what="pair", item="ignored")


@dataclass(frozen=True, slots=True)
class Pair:
    """One query with one item.

    :param where: file and line, for error messages.
    :param text: the item's text; None: to be looked up by :attr:`item_id`.
    """

    where: str
    query: str
    text: str | None
    item_id: str | None
    query_id: str | None
    slice: str | None


@dataclass(frozen=True)
class Shard:
    """Consecutive pairs of a pool that are scored together and stored as one file.

    Scores vary by float noise with their batch, so batches never cross shards: the same pool in the same shards has
    bit-identical scores on any engine and in any order.

    :param index: its number in the pool, from 0.
    :param start: position of its first pair in the pool.
    :param pairs: their texts are looked up before scoring.
    """

    index: int
    start: int
    pairs: tuple[Pair, ...]

    def killed_workers(self, count: int) -> DarlError:
        """Make the error for a shard that killed its worker each time."""
        return DarlError(
            f"pairs {self.start} to {self.start + len(self.pairs) - 1} killed their worker {count} times",
            where=self.pairs[0].where,
            todo="check the workers' memory, or lower --shard-pairs and start over",
        )


def read_pool_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read objects from JSONL (plain or ``.gz``) or, by the file's extension, Parquet.

    :return: file and line of each object, for error messages, and the object.
    """
    return read_parquet(path) if path.suffix == PARQUET else read_jsonl(path)


def read_pairs(path: Path, *, items: bool) -> Iterator[Pair]:
    """Read a pool.

    :param path: JSONL (plain or ``.gz``) or Parquet. A row has ``query`` and one of ``item_id``, ``text`` (optionally
        with ``item_id``) or ``items``, a list of ids or of ``{item_id, text}``; optionally ``query_id`` and ``slice``.
        Other fields are ignored.
    :param items: whether item ids can be looked up.
    :raises InputError: at the first invalid row, naming file, line and field.
    """
    for where, row in read_pool_rows(path):
        line = _LISTS.parse(row, where) if row.get("items") is not None else _ITEMS.parse(row, where)
        for item_id, text, within in _items(line):
            if text is None and not items:
                field = within.removesuffix(": ") or "item_id"
                raise InputError(
                    f"field {field!r} names item {short(item_id)}, but no items are given",
                    where=where,
                    todo='pass the items with --items, or write the item as {"text": …}',
                )
            yield Pair(where, line.query, text, item_id or None, line.query_id or None, line.slice or None)


def group_pairs(pairs: Iterable[Pair], size: int) -> Iterator[Shard]:
    """Split a pool into shards, with one in memory.

    :param size: pairs per shard; the last may have fewer.
    """
    source, index = iter(pairs), 0
    while consecutive := tuple(islice(source, size)):
        yield Shard(index, index * size, consecutive)
        index += 1


def _items(line: DataLine) -> Iterator[tuple[str, str | None, str]]:
    """List id and text of a line's items, at least one of the two, and a prefix for error messages."""
    row, where = line.row, line.where
    if row.get("items") is None:
        items = iter([("", line.item_id, line.text)])
    elif row.get("item_id") is not None or row.get("text") is not None:
        raise InputError(
            "'items' next to 'item_id' or 'text'", where=where, todo="keep one of them, or write one item per line"
        )
    else:
        items = parse_items(row, where)
    for within, item_id, text in items:
        if text is None and not item_id:
            raise InputError(
                f"{within}neither 'item_id' nor 'text' is present",
                where=where,
                todo="add the item that the query is paired with",
            )
        yield item_id, text, within
