"""Items: reading them, with unique ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.values import empty_file
from darl_opensearch.text import ItemRenderer, ItemTemplate, NoTextError

OnRow = Callable[[str, Mapping[str, Any]], object]


@dataclass(frozen=True)
class Item:
    """An item as text.

    :param slice: traffic slice, or ``""``.
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
    """Read the ids of items and refuse repeated ones.

    :param path: the file, for messages.
    :param rows: file and line of each item, and its fields.
    :param first: looks up file and line of an earlier item by id; None: ids are remembered in memory.
    :yields: file and line, id and fields of each item.
    :raises InputError: for a missing or repeated id, or no items.
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
        raise empty_file(path, "item")


def read_items(
    path: Path, renderer: ItemRenderer, blank: Counter[str] | None = None, on_row: OnRow | None = None
) -> dict[str, Item]:
    """Read items by id.

    :param path: JSONL, one item per line.
    :param blank: gets the ids of items without text, which are left out; None: they are errors.
    :param on_row: called with id and fields of each item, also without text.
    :raises InputError: for an invalid line, a missing or repeated id, or an item without text.
    """
    return {item.item_id: item for _, item in iter_items(path, renderer, blank, on_row=on_row)}


def iter_items(
    path: Path, renderer: ItemRenderer, blank: Counter[str] | None = None,
    first: Callable[[str], str | None] | None = None, on_row: OnRow | None = None,
) -> Iterator[tuple[str, Item]]:  # fmt: skip
    """Render the items of a file, as :func:`read_items` reads them.

    :param first: looks up file and line of an earlier item by id; None: ids are remembered in memory.
    :yields: file and line, and the item.
    """
    template = renderer.template
    for where, item_id, row in identify_items(path, read_jsonl(path), template, first):
        if on_row is not None:
            on_row(item_id, row)
        try:
            text = renderer(row, where=where)
        except NoTextError:
            if blank is None:
                raise
            blank[item_id] = 0
            continue
        yield where, Item(item_id, text, template.slice_of(row))


def describe_blank(blank: Mapping[str, int]) -> str:
    """Say which items without text were passed over, and with how many judgments.

    :param blank: judgments by id of an item without text.
    """
    names, judgments = list(blank), sum(blank.values())
    first = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    text = f"passed over: {len(names):,} item{'s' * (len(names) > 1)} without text ({first})"
    return text + (f", with {judgments:,} judgment{'s' * (judgments > 1)}" if judgments else "")


def item_twice(item_id: str, *, first: str, where: str) -> InputError:
    """Make the error for a repeated item."""
    return InputError(f"item {short(item_id)} appears twice (first: {first})", where=where, todo="keep one of the two")
