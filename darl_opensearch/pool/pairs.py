"""Reading a pool: unlabelled pairs, one after the other, whatever the file's size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, load
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.text import MAX_QUERY_CHARS

PARQUET = ".parquet"
_ROWS_A_READ = 256  # rows of a Parquet file that are turned into objects at once; a row may hold a thousand items


@dataclass(frozen=True, slots=True)
class Pair:
    """One query with one item.

    :param where: file and line, for error messages.
    :param text: the item's text, or None where it is to be looked up by :attr:`item_id`.
    :param item_id: the item's id, if it has one.
    :param query_id: the query's id, if it has one.
    :param slice: the part of traffic it belongs to, if named.
    """

    where: str
    query: str
    text: str | None
    item_id: str | None
    query_id: str | None
    slice: str | None


@dataclass(frozen=True)
class Shard:
    """Consecutive pairs of a pool: what is scored together, and written as one file.

    Scores move by float noise with what shares a batch, so the shard, not the machine, decides that: the same
    pool in the same shards has the same scores to the last bit, whoever computes them and in which order.

    :param index: its number in the pool, from 0.
    :param start: position in the pool of its first pair.
    :param pairs: the pairs, texts looked up.
    """

    index: int
    start: int
    pairs: tuple[Pair, ...]

    def to_bytes(self) -> bytes:
        """Render for another process."""
        rows = [[p.where, p.query, p.text, p.item_id, p.query_id, p.slice] for p in self.pairs]
        return json.dumps([self.index, self.start, rows]).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Shard:
        """Read what :meth:`to_bytes` wrote."""
        index, start, rows = json.loads(data)
        return cls(index, start, tuple(Pair(*row) for row in rows))


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read objects from JSONL (plain or ``.gz``) or from Parquet, told apart by the name's ending.

    :yields: where the object stands, for error messages, and the object.
    :raises InputError: when the file cannot be read.
    :raises MissingExtra: for Parquet without its extra.
    """
    if path.suffix != PARQUET:
        yield from read_jsonl(path)
        return
    parquet = load("pyarrow.parquet", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_A_READ):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, load("pyarrow", "parquet").ArrowException, ValueError, OverflowError) as err:
        # The last two: a date that Python cannot hold.
        raise InputError(f"not Parquet ({err})", where=str(path), todo="check the path, or make it again") from err


def read_pairs(path: Path, *, items: bool) -> Iterator[Pair]:
    """Read a pool.

    :param path: JSONL (plain or ``.gz``) or Parquet: a row holds ``query`` and one of ``item_id``, ``text`` (with
        ``item_id`` beside it, if wanted) or ``items``, a list of ids or of ``{item_id, text}``; optional
        ``query_id`` and ``slice``. Other fields are passed over.
    :param items: whether item ids can be looked up.
    :yields: the pairs, in the file's order.
    :raises InputError: at the first row that is not one; it names file, line and field.
    """
    for where, row in read_rows(path):
        query = _query(row, where)
        about = (_id(row, "query_id", where), _id(row, "slice", where))
        for number, (item_id, text) in enumerate(_items(row, where), 1):
            if text is None and not items:
                field = "item_id" if row.get("items") is None else f"items, number {number}"
                raise InputError(
                    f"field {field!r} names item {_short(item_id)}, and there are no items to look it up in",
                    where=where,
                    todo='give the items by --items, or write the item as {"text": …}',
                )
            yield Pair(where, query, text, item_id, *about)


def group(pairs: Iterable[Pair], size: int) -> Iterator[Shard]:
    """Cut a pool into shards; no more than one of them is held.

    :param size: pairs of a shard; the last may have fewer.
    """
    source, index = iter(pairs), 0
    while part := tuple(islice(source, size)):
        yield Shard(index, index * size, part)
        index += 1


def _items(row: Mapping[str, Any], where: str) -> Iterable[tuple[str | None, str | None]]:
    """Id and text of each item of a row; at least one of them is there."""
    many = row.get("items")
    if many is None:
        return [_item(row, where, "")]
    if row.get("item_id") is not None or row.get("text") is not None:
        raise InputError(
            "'items' stands beside 'item_id' or 'text'", where=where, todo="keep the list, or write one item a line"
        )
    if not isinstance(many, Sequence) or isinstance(many, str) or not many:
        raise InputError(
            "field 'items' is not a list of items, or an empty one",
            where=where,
            todo='write ["id", …], or drop the line',
        )
    return (
        _item(one if isinstance(one, Mapping) else {"item_id": one}, where, f"items, number {number}: ")
        for number, one in enumerate(many, 1)
    )


def _item(item: Mapping[str, Any], where: str, within: str) -> tuple[str | None, str | None]:
    text = item.get("text")
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise InputError(f"{within}field 'text' is empty or not text", where=where, todo="give the item's text")
    item_id = _id(item, "item_id", where, within)
    if text is None and item_id is None:
        raise InputError(
            f"{within}neither 'item_id' nor 'text' is there",
            where=where,
            todo="say which item the query is paired with",
        )
    return item_id, text


def _query(row: Mapping[str, Any], where: str) -> str:
    value = row.get("query")
    if not isinstance(value, str) or not value.strip():
        raise InputError("field 'query' is empty or not text", where=where, todo="give the words that were searched")
    if len(value) > MAX_QUERY_CHARS:
        raise InputError(
            f"field 'query' has {len(value):,} characters, more than {MAX_QUERY_CHARS:,}",
            where=where,
            todo="give what was typed into the search box",
        )
    return value.strip()


def _id(row: Mapping[str, Any], name: str, where: str, within: str = "") -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError(
            f"{within}field {name!r} is {_short(value)}, neither text nor a whole number",
            where=where,
            todo="correct it",
        )
    return str(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
