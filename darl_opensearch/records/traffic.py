"""Traffic: unjudged queries with their retrieved items."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError
from darl_opensearch.records.lines import LineKind
from darl_opensearch.records.values import parse_id, parse_text, unknown_item


@dataclass(frozen=True)
class TrafficQuery:
    """An unjudged query.

    :param query_id: its id, or its text if it has none.
    :param item_ids: retrieved by the pipeline; empty: not given.
    :param slice: traffic slice, or ``""``; not part of the digest of training data.
    """

    query_id: str
    query: str
    item_ids: tuple[str, ...] = ()
    slice: str = field(default="", repr=False)


def read_traffic(path: Path, items: Container[str], blank: Container[str] = ()) -> list[TrafficQuery]:
    """Read held-out queries.

    :param path: JSONL: query, optionally query_id, slice and items (ids that the pipeline retrieved).
    :param blank: ids of items without text, which are left out.
    :raises InputError: for an empty query or an unknown item.
    """
    queries = []
    for line in LineKind(what="query", item="ignored", may_be_empty=True).read(path):
        listed = [item_id for _, item_id, _ in parse_items(line.row, line.where)] if line.row.get("items") else []
        ids = tuple(item_id for item_id in listed if item_id not in blank)
        for item_id in ids:
            if item_id not in items:
                raise unknown_item(item_id, line.where)
        queries.append(TrafficQuery(line.query_key, line.query, ids, line.slice))
    return queries


def parse_items(row: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, str | None]]:
    """Parse a line's field ``items``: a list of ids, or of objects with ``item_id``, ``text`` or both.

    :yields: the item's place in the line, for messages; its id or ``""``; its text or None.
    :raises InputError: if the field is not a non-empty list of items.
    """
    items = row.get("items")
    if not isinstance(items, list | tuple) or not items:
        raise InputError(
            "field 'items' is not a non-empty list of items", where=where, todo='write ["id", …] or omit the field'
        )
    for number, item in enumerate(items, 1):
        fields, within = item if isinstance(item, Mapping) else {"item_id": item}, f"items, number {number}: "
        text = None if fields.get("text") is None else parse_text(
            fields, "text", where, todo="add the item's text", within=within
        )  # fmt: skip
        yield within, parse_id(fields, "item_id", where, within=within), text
