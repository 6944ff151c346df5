"""Items: read one after the other, each id once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.values import nothing_in
from darl_opensearch.text import ItemRenderer, ItemTemplate


@dataclass(frozen=True)
class Item:
    """An item as text.

    :param slice: the part of traffic it belongs to, or ``""``.
    """

    item_id: str
    text: str
    slice: str


def identify_items(
    path: Path,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    template: ItemTemplate,
    first: Callable[[str], str | None] | None = None,
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Identify items, and refuse one that is there twice.

    :param path: the file, for messages.
    :param rows: where each item stands, and its fields.
    :param first: gives the place of an earlier item by id; None: the ids are remembered here, in memory.
    :yields: where the item stands, its id and its fields.
    :raises InputError: for a missing or repeated id, or where there is no item.
    """
    places: dict[str, str] = {}
    place_of, where = first or places.get, ""
    for where, row in rows:
        item_id = template.item_id(row, where=where)
        if (before := place_of(item_id)) is not None:
            raise item_twice(item_id, first=before, where=where)
        if first is None:
            places[item_id] = where
        yield where, item_id, row
    if not where:
        raise nothing_in(path, "item")


def read_items(path: Path, renderer: ItemRenderer) -> dict[str, Item]:
    """Read items.

    :param path: JSONL, one item a line.
    :param renderer: template, tokenizer and cap.
    :return: items by id.
    :raises InputError: for a broken line, a missing or repeated id, or an item without text.
    """
    template = renderer.template
    return {
        item_id: Item(item_id, renderer(row, where=where), template.slice_of(row))
        for where, item_id, row in identify_items(path, read_jsonl(path), template)
    }


def item_twice(item_id: str, *, first: str, where: str) -> InputError:
    """Say that an item is there twice."""
    return InputError(f"item {short(item_id)} appears twice (first: {first})", where=where, todo="keep one of the two")
