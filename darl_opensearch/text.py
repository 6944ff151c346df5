"""Rendering items as text, in the same way for training, indexing and serving.

Training text, ``darl_text`` in the index and the scorer's input must be equal to the character. So the bundle carries
the template, and the text is cut to the item cap when it is rendered: a long query cannot take tokens from an item.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darl_opensearch.errors import InputError, short

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT_FIELD, ID_FIELD, SLICE_FIELD = "darl_text", "darl_id", "darl_slice"  # what `darl index` adds to an item
MAX_QUERY_CHARS = 10_000  # a longer query is a mistake, not a search
MAX_ITEM_CHARS = 1_000_000  # a longer field is a mistake in the data, not a product


class NoTextError(InputError):
    """An item has none of the template's fields."""


@dataclass(frozen=True)
class ItemTemplate:
    """The fields of an item that the model reads, in order.

    :param fields: ``"cover"`` renders as ``cover: …``, and ``"=name"`` without a label; ``"content.text"`` is the field
        ``text`` of the object ``content``, or of each object in a list.
    :param slice_field: field that names the item's traffic slice, if any.
    """

    fields: tuple[str, ...]
    id_field: str = "id"
    slice_field: str | None = None
    separator: str = " | "

    def __post_init__(self) -> None:
        """Refuse an empty template."""
        if not self.fields or any(not f.removeprefix("=") for f in self.fields):
            raise InputError("the item template names no fields", todo='set for example fields = ["=title", "text"]')

    def render(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Render an item, before the cut to the item cap.

        An item without any of the fields may have ``darl_text``, as those from the OOD log do.

        :param item: missing or empty fields are left out.
        :param where: file and line, for error messages.
        :raises NoTextError: if all fields are missing.
        :raises InputError: if one is an object, or absurdly long.
        """
        parts = []
        for spec in self.fields:
            field = spec.removeprefix("=")
            value = " ".join(self._words(item, field, where))
            if len(value) > MAX_ITEM_CHARS:
                raise InputError(
                    f"field {field!r} has {len(value):,} characters, more than {MAX_ITEM_CHARS:,}",
                    where=where,
                    todo="shorten it, or remove the field from the template",
                )
            if value:
                parts.append(value if spec.startswith("=") else f"{field}: {value}")
        if not parts:
            parts = [" ".join(self._words(item, TEXT_FIELD, where))]
        if not parts[0]:
            names = ", ".join(f.removeprefix("=") for f in self.fields)
            raise NoTextError(f"the item has none of the template's fields ({names})", where=where, todo="fill one")
        return self.separator.join(parts)

    def _words(self, item: Mapping[str, Any], field: str, where: str | None) -> list[str]:
        value = look_up(item, field)
        if isinstance(value, str):
            return value.split()  # most fields, and most of the time
        if not (inner := inner_fields(value)):
            return list(_flatten(value))
        raise InputError(
            f"field {field!r} of item {short(look_up(item, self.id_field))} is an object, not text", where=where,
            todo="name a field inside it in the template: " + ", ".join(f"{field}.{name}" for name in inner[:5]),
        )  # fmt: skip

    def item_id(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Return an item's id.

        :param where: file and line, for error messages.
        :raises InputError: if it is missing or empty, or an object or a list.
        """
        value = look_up(item, self.id_field)
        if isinstance(value, Mapping | list | tuple):
            raise InputError(f"field {self.id_field!r} is {short(value)}, not an id", where=where,
                             todo="name the field that holds the id as id_field")  # fmt: skip
        if value is None or str(value) == "":
            raise InputError(f"the item has no {self.id_field!r}", where=where, todo="give each item its own id")
        return str(value)

    def slice_of(self, item: Mapping[str, Any]) -> str:
        """Return an item's slice, or ``""``; a slice may be named 0 or False.

        :raises InputError: if it is an object or a list.
        """
        value = look_up(item, self.slice_field) if self.slice_field else None
        if value and isinstance(value, Mapping | list | tuple):
            item_id = short(look_up(item, self.id_field))
            raise InputError(f"field {self.slice_field!r} of item {item_id} is {short(value)}, not the name of a slice",
                             todo="name a field that holds one value as slice_field")  # fmt: skip
        return str(value) if value or value == 0 else ""


def look_up(row: Mapping[str, Any], path: str) -> Any:
    """Look up a field by name or dotted path: ``content.text`` is the field ``text`` of the object ``content``.

    A field whose own name has the dots is preferred. In a list the path goes on in each object.

    :return: its value, a list if the path leads through one, or None if there is none.
    """
    if path in row:
        return row[path]
    for dot in (place for place, char in enumerate(path) if char == "."):
        if (value := row.get(path[:dot])) is not None and (found := _look_into(value, path[dot + 1 :])) is not None:
            return found
    return None


def _look_into(value: object, path: str) -> Any:
    if isinstance(value, Mapping):
        return look_up(value, path)
    if isinstance(value, list | tuple):
        found = [part for inner in value if (part := _look_into(inner, path)) is not None]
        return found or None
    return None


def inner_fields(value: object) -> list[str] | None:
    """List the fields of an object, or of the objects in a list; None without any object."""
    if isinstance(value, Mapping):
        return [str(name) for name in value]
    if not isinstance(value, list | tuple):
        return None
    inner = [names for part in value if (names := inner_fields(part)) is not None]
    return list(dict.fromkeys(name for names in inner for name in names)) if inner else None


def _flatten(value: object) -> Iterable[str]:
    if value is None:
        return
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flatten(part)
    elif isinstance(value, bool):
        yield "true" if value else "false"  # as in JSON and in OpenSearch
    elif not isinstance(value, Mapping):  # only an object without fields comes here
        yield from str(value).split()  # runs of whitespace become one blank: line breaks would cost tokens


def cut_to_tokens(text: str, tokenizer: Tokenizer, cap: int) -> str:
    """Cut a text at a word boundary to at most ``cap`` tokens.

    :param tokenizer: the bundle's; its truncation is undone.
    :param cap: maximum tokens, without special tokens.
    """
    text = text[: cap * 64]  # no tokenizer in use has 64 characters per token; keeps a 10 MB text cheap
    while text:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        # The tokenizer's own truncation moves the rest into further encodings.
        parts = [encoding, *encoding.overflowing]
        words = [word for part in parts for word in part.word_ids]
        if len(words) <= cap:
            return text
        ends = [end for part in parts for _, end in part.offsets]
        shorter = text[: ends[words_within(words, cap) - 1]].rstrip()
        text = shorter if len(shorter) < len(text) else text[: len(text) // 2]
    return text


def words_within(words: Sequence[int | None], cap: int) -> int:
    """Count the tokens of the whole words within a cap; a first word longer than the cap is split.

    :param words: word number of each token.
    """
    if len(words) <= cap:
        return len(words)
    keep = cap
    while keep > 0 and words[keep - 1] == words[cap]:
        keep -= 1  # a cut word would be tokenised differently
    return keep or cap


def same_text(query: str) -> str:
    """Normalise a query: queries with the same result count as the same query.

    Case and runs of whitespace are ignored, and so is Unicode composition: some keyboards and file systems write é as e
    and an accent. Otherwise a query could be trained on in one spelling and tested on in the other.
    """
    if not query.isascii():  # Unicode's canonical caseless match (3.13, D145), recomposed
        query = unicodedata.normalize("NFC", unicodedata.normalize("NFD", query).casefold())
    return " ".join(query.casefold().split())


def clean(text: str) -> str:
    r"""Replace lone surrogates, which UTF-8 cannot encode, with U+FFFD.

    JSON can contain one (``"\ud800"``); tokenizer, SQLite and OpenSearch would refuse the whole text.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class ItemRenderer:
    """Renders items as ``darl_text`` with a bundle's template, tokenizer and item cap."""

    def __init__(self, template: ItemTemplate, tokenizer: Tokenizer, item_cap: int) -> None:
        self.template, self.item_cap = template, item_cap
        self._tokenizer = tokenizer

    def __call__(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Render an item and cut it to the cap.

        :param where: file and line, for error messages.
        """
        return cut_to_tokens(self.template.render(item, where=where), self._tokenizer, self.item_cap)
