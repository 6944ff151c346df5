"""Rendering items as text, in the same way for training, indexing and serving.

Training text, ``darl_text`` in the index and the scorer's input must be equal to the character. So the bundle carries
the template, and the text is cut to the item cap when it is rendered: a long query cannot take tokens from an item.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darl_opensearch.errors import InputError

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

    :param fields: ``"cover"`` renders as ``cover: …``, and ``"=name"`` without a label.
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
        :raises InputError: if one is absurdly long.
        """
        parts = []
        for spec in self.fields:
            field = spec.removeprefix("=")
            value = " ".join(_flatten(item.get(field)))
            if len(value) > MAX_ITEM_CHARS:
                raise InputError(
                    f"field {field!r} has {len(value):,} characters, more than {MAX_ITEM_CHARS:,}",
                    where=where,
                    todo="shorten it, or remove the field from the template",
                )
            if value:
                parts.append(value if spec.startswith("=") else f"{field}: {value}")
        if not parts:
            parts = [" ".join(_flatten(item.get(TEXT_FIELD)))]
        if not parts[0]:
            names = ", ".join(f.removeprefix("=") for f in self.fields)
            raise NoTextError(f"the item has none of the template's fields ({names})", where=where, todo="fill one")
        return self.separator.join(parts)

    def item_id(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Return an item's id.

        :param where: file and line, for error messages.
        :raises InputError: if it is missing or empty.
        """
        value = item.get(self.id_field)
        if value is None or str(value) == "":
            raise InputError(f"the item has no {self.id_field!r}", where=where, todo="give each item its own id")
        return str(value)

    def slice_of(self, item: Mapping[str, Any]) -> str:
        """Return an item's slice, or ``""``; a slice may be named 0 or False."""
        value = item.get(self.slice_field) if self.slice_field else None
        return str(value) if value or value == 0 else ""


def _flatten(value: object) -> Iterable[str]:
    if value is None:
        return
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flatten(part)
    else:
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
