"""Rendering items as text, in the same way for training, indexing and serving.

Training text, ``darl_text`` in the index and the scorer's input must be equal to the character. So the bundle carries
the template, and the text is cut to the item cap when it is rendered: a long query cannot take tokens from an item.
"""

from __future__ import annotations

import hashlib
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darl_opensearch.errors import InputError, short

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT_FIELD, ID_FIELD, SLICE_FIELD = "darl_text", "darl_id", "darl_slice"  # what `darl index` adds to an item
LONG_TEXT_FIELD = "darl_long_text"  # also added, for a bundle that scores items in chunks
MAX_QUERY_CHARS = 10_000  # a longer query is a mistake, not a search
MAX_ITEM_CHARS = 1_000_000  # a longer field is a mistake in the data, not a product
MOST_CHUNKS = 64  # some 10,000 tokens: a longer item is several items
Spans = tuple[tuple[int, int], ...]  # where each piece of a text begins and ends
_WORDS_OF_OVERLAP = 16  # one word for so many tokens of the cap: 12 of 192
_WINDOW = 8  # characters for each token of the cap that are tokenised for a chunk; ordinary text has 3 to 6
_SPANS_KEPT = 50_000  # long texts whose chunks are in memory, about 500 bytes each


class NoTextError(InputError):
    """An item has none of the template's fields."""


@dataclass(frozen=True)
class ItemTemplate:
    """The fields of an item that the model reads, in order.

    :param fields: ``"cover"`` renders as ``cover: …``, and ``"=name"`` without a label; ``"content.text"`` is the field
        ``text`` of the object ``content``, or of each object in a list.
    :param slice_field: field that names the item's traffic slice, if any.
    :param chunks: maximum chunks in which an item is scored; 1: its text is cut at the item cap.
    :param title_fields: leading fields that each chunk repeats, fewer than all.
    """

    fields: tuple[str, ...]
    id_field: str = "id"
    slice_field: str | None = None
    separator: str = " | "
    chunks: int = 1
    title_fields: int = 1

    def __post_init__(self) -> None:
        """Refuse an empty template, and chunks that could not be told from their title."""
        if not self.fields or any(not f.removeprefix("=") for f in self.fields):
            raise InputError("the item template names no fields", todo='set for example fields = ["=title", "text"]')
        if not isinstance(self.chunks, int) or not 1 <= self.chunks <= MOST_CHUNKS:
            raise InputError(f"an item cannot be scored in {self.chunks!r} chunks", todo=f"set 1 to {MOST_CHUNKS}")
        if self.chunks > 1 and self.title_fields and not self.separator.strip():
            raise InputError(
                "with a blank separator the title of an item cannot be told from its body",
                todo='set separator = " | ", or title_fields = 0',
            )

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
    """Renders items as text, and cuts a text into the chunks that are scored, each within the item cap.

    With one chunk a text is cut at the cap. With more, the first is that text, and each further one is the title, which
    is what stands before the body in the rendered text, and a piece of the body that begins some words before the end
    of the last. A title beyond half the cap is not repeated.

    :param item_cap: maximum tokens of a chunk, without special tokens.
    """

    def __init__(self, template: ItemTemplate, tokenizer: Tokenizer, item_cap: int) -> None:
        self.template, self.item_cap = template, item_cap
        self._tokenizer = tokenizer
        self._cache: OrderedDict[bytes, Spans] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Render an item and cut it.

        :param where: file and line, for error messages.
        """
        return self.cut(self.template.render(item, where=where))

    def cut(self, text: str) -> str:
        """Cut a text at the end of its last chunk; with one chunk that is ``darl_text``."""
        if self.template.chunks == 1:
            return self.first(text)
        text = clean(text)
        return text[: self._spans(text)[-1][1]]

    def goes_beyond(self, item: Mapping[str, Any]) -> bool:
        """Tell whether a rendered item has text beyond its last chunk; False with one chunk, where none is counted."""
        return self.template.chunks > 1 and len(self(item)) < len(self.template.render(item))

    def first(self, text: str) -> str:
        """Cut a text at the item cap: ``darl_text``, and what the model is trained on."""
        return cut_to_tokens(text, self._tokenizer, self.item_cap)

    def chunks(self, text: str) -> list[str]:
        """Cut a text into the texts that are scored, at most ``chunks``, at least one.

        With one chunk the text is returned as it is: the scorer cuts it.
        """
        if self.template.chunks == 1:
            return [text]
        text = clean(text)
        spans = self._spans(text)
        title = text[: spans[0][0]]
        return [text[: spans[0][1]], *(title + text[start:end] for start, end in spans[1:])]

    def _spans(self, text: str) -> Spans:
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        with self._lock:
            spans = self._cache.get(key)
        if spans is None:  # tokenising a long text takes longer than scoring it from its states
            spans = self._find_spans(text)
            with self._lock:
                self._cache[key] = spans
                while len(self._cache) > _SPANS_KEPT:
                    self._cache.popitem(last=False)
        return spans

    def _find_spans(self, text: str) -> Spans:
        """Find where each piece begins and ends in the text; the first begins behind the title."""
        end = len(self.first(text))
        if end == len(text) or not text[end:].strip():
            return ((0, end),)
        title = self._title(text)
        spans, whole = [(title, end)], len(text.rstrip())
        while len(spans) < self.template.chunks and (end := spans[-1][1]) < whole:
            start = _go_back(text, *spans[-1], words=self.item_cap // _WORDS_OF_OVERLAP)
            size = self._piece(text[:title], text[start:])
            if start + size <= end:  # the next word is longer than a chunk: it is split
                start = end + len(text[end:]) - len(text[end:].lstrip())
                size = len(cut_to_tokens(text[start:], self._tokenizer, self.item_cap // 2))
            spans.append((start, start + size))
        return tuple(spans)

    def _piece(self, title: str, rest: str) -> int:
        """Count the characters of the rest that fit into a chunk with the title."""
        for window in (_WINDOW * self.item_cap, len(rest)):
            chunk = cut_to_tokens(title + rest[:window], self._tokenizer, self.item_cap)
            if len(chunk) < len(title) + window:  # nearly always: the rest of a long text is not tokenised
                break
        return max(0, len(chunk) - len(title))

    def _title(self, text: str) -> int:
        """Find where the body begins; 0 without a title to repeat."""
        end = 0
        for _ in range(min(self.template.title_fields, len(self.template.fields) - 1)):
            place = text.find(self.template.separator, end)
            if place < 0:
                return 0
            end = place + len(self.template.separator)
        within = end == len(cut_to_tokens(text[:end], self._tokenizer, self.item_cap // 2))
        return end if within else 0


def _go_back(text: str, start: int, end: int, *, words: int) -> int:
    """Find where the last words of a piece begin; its end, if it has few or they are most of it."""
    parts = text[start:end].rsplit(None, words)
    if len(parts) <= words:
        return end
    tail = text[start + len(parts[0]) : end].lstrip()
    return end if 2 * len(tail) > end - start else end - len(tail)
