"""Items as text: one rendering for training, indexing and serving.

What the model was trained on must be what the index holds in ``darl_text`` and what the scorer is sent,
to the character. So the template travels in the bundle, and the cut to the item cap happens here, when
the text is rendered: a longer query can then never take tokens away from an item.
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
MAX_QUERY_CHARS = 10_000  # a query longer than this is a mistake, not a search
MAX_ITEM_CHARS = 1_000_000  # a field longer than this is a mistake in the data, not a product


@dataclass(frozen=True)
class ItemTemplate:
    """Which fields of an item the model reads, in which order.

    :param fields: fields in order; ``"cover"`` renders as ``cover: …``, and ``"=name"`` without a label.
    :param slice_field: field that names the part of traffic an item belongs to, if any.
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
        """Render one item, before the cut to the item cap.

        An item that is known by its text alone, such as one from the OOD log, has that in ``darl_text``.

        :param item: the item's fields; those absent or empty are left out.
        :param where: file and line to name in an error.
        :raises InputError: when none of the fields is there, or one is absurdly long.
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
            wanted = ", ".join(f.removeprefix("=") for f in self.fields)
            raise InputError(f"the item has none of the template's fields ({wanted})", where=where, todo="fill one")
        return self.separator.join(parts)

    def item_id(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Identify an item.

        :param where: file and line to name in an error.
        :raises InputError: when it is absent or empty.
        """
        value = item.get(self.id_field)
        if value is None or str(value) == "":
            raise InputError(f"the item has no {self.id_field!r}", where=where, todo="give each item its own id")
        return str(value)

    def slice_of(self, item: Mapping[str, Any]) -> str:
        """Name the item's slice.

        :return: its slice, or ``""``; a slice may be named 0 or False.
        """
        value = item.get(self.slice_field) if self.slice_field else None
        return str(value) if value or value == 0 else ""


def _flatten(value: object) -> Iterable[str]:
    if value is None:
        return
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flatten(part)
    else:
        yield from str(value).split()  # any run of blanks is one blank: a line break is not a token worth paying for


def cut_to_tokens(text: str, tokenizer: Tokenizer, cap: int) -> str:
    """Cut a text at a word border so that it has at most ``cap`` tokens.

    :param tokenizer: the bundle's tokenizer; its own truncation and padding are not used.
    :param cap: most tokens, special tokens not counted.
    :return: the text, or its beginning.
    """
    text = text[: cap * 64]  # no tokenizer in use spends 64 characters on a token; keeps a 10 MB text cheap
    while text:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        # A tokenizer.json carries a truncation of its own: what it cut away counts as well.
        parts = [encoding, *encoding.overflowing]
        words = [word for part in parts for word in part.word_ids]
        if len(words) <= cap:
            return text
        ends = [end for part in parts for _, end in part.offsets]
        shorter = text[: ends[words_within(words, cap) - 1]].rstrip()
        text = shorter if len(shorter) < len(text) else text[: len(text) // 2]
    return text


def words_within(words: Sequence[int | None], cap: int) -> int:
    """Count the tokens of the whole words that a cap leaves; a word longer than the cap is split after all.

    :param words: the number of the word that each token is of.
    """
    if len(words) <= cap:
        return len(words)
    keep = cap
    while keep > 0 and words[keep - 1] == words[cap]:
        keep -= 1  # its pieces would be others
    return keep or cap


def same_text(query: str) -> str:
    """Bring a query to the form in which two of them count as the same one, typed in another way.

    :return: without case and runs of blanks, and with one spelling of what Unicode can spell in two ways: some
        keyboards and file systems give é as e and an accent. A query in both spellings would else be trained on in one
        and tested on in the other.
    """
    if not query.isascii():  # Unicode's canonical caseless match (3.13, D145), put together again
        query = unicodedata.normalize("NFC", unicodedata.normalize("NFD", query).casefold())
    return " ".join(query.casefold().split())


def clean(text: str) -> str:
    r"""Replace what is not a character: half a surrogate pair, which no UTF-8 can carry.

    JSON can spell one (``"\ud800"``); tokenizer, SQLite and OpenSearch would refuse the whole text.

    :param text: any string.
    :return: the text, with U+FFFD in place of each lone surrogate.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class ItemRenderer:
    """Template, tokenizer and item cap of a bundle: what fills ``darl_text``."""

    def __init__(self, template: ItemTemplate, tokenizer: Tokenizer, item_cap: int) -> None:
        self.template, self.item_cap = template, item_cap
        self._tokenizer = tokenizer

    def __call__(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Render an item and cut it to the cap.

        :param where: file and line to name in an error.
        :return: the text that is trained on, indexed and scored.
        """
        return cut_to_tokens(self.template.render(item, where=where), self._tokenizer, self.item_cap)
