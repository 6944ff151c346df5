"""Reading items, judgments and traffic, with errors that name file, line and field."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.text import MAX_QUERY_CHARS, ItemRenderer, same_text
from trainer.data.quoting import short


@dataclass(frozen=True)
class Item:
    """An item as text.

    :param text: rendered and cut to the item cap.
    :param slice: the part of traffic it belongs to, or ``""``.
    """

    item_id: str
    text: str
    slice: str


@dataclass(frozen=True)
class JudgedQuery:
    """A query with its judged items.

    :param slice: the part of traffic it belongs to, or ``""``.
    """

    query_id: str
    query: str
    item_ids: tuple[str, ...]
    grades: tuple[int, ...]
    slice: str = ""


@dataclass(frozen=True)
class TrafficQuery:
    """A query nobody judged.

    :param query_id: its id, or its text when it has none.
    :param item_ids: what the pipeline retrieved for it; empty: not given.
    :param slice: the part of traffic it belongs to, or ``""``; no part of the digest of what was trained on.
    """

    query_id: str
    query: str
    item_ids: tuple[str, ...] = ()
    slice: str = field(default="", repr=False)


@dataclass(frozen=True)
class Judgment:
    """One line of a file of judgments.

    :param query_id: the query's id, or its text when it has none.
    :param slice: the part of traffic the query belongs to, or ``""``.
    """

    query_id: str
    query: str
    item_id: str
    grade: int
    slice: str


def read_items(path: Path, renderer: ItemRenderer) -> dict[str, Item]:
    """Read items.

    :param path: JSONL, one item a line.
    :param renderer: template, tokenizer and cap.
    :return: items by id.
    :raises InputError: for a broken line, a missing or repeated id, or an item without text.
    """
    items: dict[str, Item] = {}
    lines: dict[str, str] = {}
    for where, row in read_jsonl(path):
        item_id = renderer.template.item_id(row, where=where)
        if item_id in items:
            raise item_twice(item_id, first=lines[item_id], where=where)
        items[item_id] = Item(item_id, renderer(row, where=where), renderer.template.slice_of(row))
        lines[item_id] = where
    if not items:
        raise nothing_in(path, "item")
    return items


def read_judgments(path: Path, items: Mapping[str, Item], k: int) -> list[JudgedQuery]:
    """Read judgments and gather them by query.

    :param path: JSONL: query_id (or query alone), query, item_id, grade, optional slice.
    :param items: every item that may be judged.
    :return: queries in order of first appearance.
    :raises InputError: for an unknown grade or item, a duplicate pair, or an empty or changing query.
    """
    rows: dict[str, list[tuple[str, int]]] = {}
    texts: dict[str, tuple[str, str]] = {}
    seen: dict[tuple[str, str], str] = {}
    for where, row in read_jsonl(path):
        judgment = parse_judgment(row, items, k, where=where)
        query_id, query, item_id = judgment.query_id, judgment.query, judgment.item_id
        if query_id in texts and texts[query_id][0] != query:
            raise changed_query(judgment, before=texts[query_id][0], where=where)
        if (first := seen.get((query_id, item_id))) is not None:
            raise judged_twice(judgment, first=first, where=where)
        seen[query_id, item_id] = where
        texts.setdefault(query_id, (query, judgment.slice))
        rows.setdefault(query_id, []).append((item_id, judgment.grade))
    if not rows:
        raise nothing_in(path, "judgment")
    return [
        JudgedQuery(query_id, texts[query_id][0], tuple(i for i, _ in pairs), tuple(g for _, g in pairs),
                    texts[query_id][1])
        for query_id, pairs in rows.items()
    ]  # fmt: skip


def parse_judgment(row: Mapping[str, Any], items: Container[str], k: int, *, where: str) -> Judgment:
    """Check one line of a file of judgments.

    :param items: ids of every item that may be judged.
    :param where: file and line to name in an error.
    :raises InputError: for an empty query, or an unknown item or grade.
    """
    query = _text(row, "query", where)
    item_id = _item_id(row, items, where)
    return Judgment(name_of(row, "query_id") or query, query, item_id, _grade(row, k, where), name_of(row, "slice"))


def judged_twice(judgment: Judgment, *, first: str, where: str) -> InputError:
    """Say that a pair is judged twice.

    :param first: file and line of the first.
    :param where: file and line of the second.
    """
    return InputError(
        f"the pair of query {judgment.query_id!r} and item {judgment.item_id!r} is judged twice (first: {first})",
        where=where,
        todo="keep one grade a pair",
    )


def changed_query(judgment: Judgment, *, before: str, where: str) -> InputError:
    """Say that a query id has two texts.

    :param where: file and line of the second.
    """
    return InputError(
        f"query {judgment.query_id!r} reads {judgment.query!r} here and {before!r} before",
        where=where,
        todo="give each query text its own query_id",
    )


def item_twice(item_id: str, *, first: str, where: str) -> InputError:
    """Say that an item is there twice.

    :param first: file and line of the first.
    :param where: file and line of the second.
    """
    return InputError(f"item {item_id!r} is there twice (first: {first})", where=where, todo="keep one of the two")


def nothing_in(path: Path, what: str) -> InputError:
    """Say that a file is empty.

    :param what: what it should hold, in the singular.
    """
    return InputError(f"there is no {what} in it", where=str(path), todo="write one JSON object a line")


def read_traffic(path: Path, items: Mapping[str, Item]) -> list[TrafficQuery]:
    """Read held-out queries.

    :param path: JSONL: query, optional query_id, slice and items (ids the pipeline retrieved).
    :param items: the items there are; retrieved ids that are not among them are an error.
    :raises InputError: for an empty query or an unknown item.
    """
    queries = []
    for where, row in read_jsonl(path):
        query = _text(row, "query", where)
        ids = row.get("items") or ()
        if not isinstance(ids, list | tuple):
            raise InputError("'items' is not a list of item ids", where=where, todo='write ["id", …] or leave it out')
        for item_id in ids:
            if str(item_id) not in items:
                raise InputError(
                    f"there is no item {short(item_id)}", where=where, todo="add it to the items, or drop it"
                )
        part = name_of(row, "slice")
        queries.append(TrafficQuery(name_of(row, "query_id") or query, query, tuple(map(str, ids)), part))
    return queries


def digest(rows: Iterable[Item | JudgedQuery | TrafficQuery]) -> str:
    """Digest of items, or of queries with items and grades, whatever their order in the file.

    The rows' own digests are added up, so that no two rows have to be in memory at once (an additive multiset
    hash: Clarke et al. 2003, "Incremental multiset hash functions"). It tells data apart that differ by mistake, not
    data that were made up to collide.

    :return: 64 hexadecimal digits.
    """
    total = count = 0
    for row in rows:
        total += int.from_bytes(hashlib.sha256(repr(row).encode()).digest(), "big")
        count += 1
    return hashlib.sha256(f"{count} {total % 2**256:064x}".encode()).hexdigest()


def check_disjoint(train: Container[str] | Sequence[JudgedQuery], dev: Sequence[JudgedQuery], *, where: str) -> None:
    """Refuse a query text that is in training and dev part both.

    :param train: training queries, or their texts in the form of :func:`darl_opensearch.text.same_text`.
    :param where: dev file to name in an error.
    :raises InputError: when one is.
    """
    known = {same_text(q.query) for q in train} if isinstance(train, Sequence) else train
    for query in dev:
        if same_text(query.query) in known:
            raise InputError(
                f"query {query.query!r} is in the training part as well", where=where, todo="keep it in one of the two"
            )


def name_of(row: Mapping[str, Any], field: str) -> str:
    """Read an optional id or name.

    :param field: its field; 0 is a name like any other number.
    :return: it as text, or ``""`` where there is none.
    """
    value = row.get(field)
    return "" if value is None else str(value)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"field {name!r} is empty or not text", where=where, todo="give the words that were searched")
    if len(value) > MAX_QUERY_CHARS:
        raise InputError(
            f"field {name!r} has {len(value):,} characters, more than {MAX_QUERY_CHARS:,}",
            where=where,
            todo="give what was typed into the search box",
        )
    return value.strip()


def _item_id(row: Mapping[str, Any], items: Container[str], where: str) -> str:
    value = row.get("item_id")
    if value is None or str(value) == "":
        raise InputError("field 'item_id' is missing", where=where, todo="name the judged item")
    if str(value) not in items:
        raise InputError(
            f"there is no item {short(value)}", where=where, todo="add it to the items, or drop the judgment"
        )
    return str(value)


def _grade(row: Mapping[str, Any], k: int, where: str) -> int:
    value = row.get("grade")
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"grade {short(value)} is not a whole number", where=where, todo=f"give a grade in 0..{k - 1}")
    if not 0 <= value < k:
        raise InputError(
            f"grade {value} is outside 0..{k - 1}", where=where, todo="correct the line, or name the grade in [grades]"
        )
    return value
