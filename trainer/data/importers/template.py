"""The item template of an import: named, or guessed from the items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.settings import nearest
from darl_opensearch.text import ItemTemplate, look_up
from trainer.data.importers.base import split_list
from trainer.data.importers.gathering import Gathering

SAMPLE_ITEMS = 1000  # items from which to guess the text fields
MOST_FIELDS = 8  # fields of a guessed template: more would exceed the item cap
_TITLES = ("title", "name", "headline", "product_title", "product_name")


def choose_template(store: Gathering, wanted: str) -> ItemTemplate:
    """Choose the fields to render as text.

    :param wanted: the parameter ``template``; empty: the title, then fields with two or more words on average.
    :raises UsageError: if none of the sampled items has a named field.
    :raises InputError: if no field is text.
    """
    words: dict[str, list[int]] = {}
    for item in store.sample(SAMPLE_ITEMS):
        for name, value in _leaves(item):
            if name != "id":
                words.setdefault(name, []).append(_words(value))
    if named := split_list(wanted):
        for spec in named:
            name = spec.removeprefix("=")
            if inside := [path for path in words if path.startswith(f"{name}.")]:
                raise UsageError(f"template names {name!r}, which is an object in some items",
                                 todo=f"name a field inside it: {', '.join(inside[:5])}")  # fmt: skip
            if name not in words and all(look_up(item, name) is None for item in store.sample(-1)):
                raise UsageError(f"template names {name!r}, which no item has", todo=nearest(name, words))
        return ItemTemplate(named)
    words = {name: counts for name, counts in words.items() if any(counts)}
    titles = [name for name in words if name.casefold() in _TITLES][:1]
    texts = [name for name in words if name not in titles and sum(words[name]) >= 2 * sum(map(bool, words[name]))]
    if not (chosen := [*(f"={name}" for name in titles), *texts][:MOST_FIELDS] or list(words)[:MOST_FIELDS]):
        raise InputError("no item field is text", todo="give items a title or a description")
    return ItemTemplate(tuple(chosen))


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of an item by dotted path, each with its value or the list of its values."""
    for name, inner in value.items():
        objects = [part for part in (inner if isinstance(inner, list) else [inner]) if isinstance(part, dict)]
        if not objects:
            yield f"{path}{name}", inner
        for leaf in dict.fromkeys(leaf for part in objects for leaf, _ in _leaves(part, f"{path}{name}.")):
            yield leaf, look_up(value, leaf.removeprefix(path))


def _words(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_words, value))
    return len(value.split()) if isinstance(value, str) else 0
