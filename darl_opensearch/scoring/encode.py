"""Tokenising query and items separately, each cut to its cap, and joining them by the bundle's pair template.

ML Commons truncates the pair as a whole, on its longer side, so there a query beyond its cap shortens the item. Queries
and items within their caps have the same tokens there as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.text import MAX_ITEM_CHARS, clean, words_within

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Characters per token beyond which a text counts as long; ordinary text has 3 to 6.
_CHARS_PER_TOKEN = 64
_MARGIN = 128  # extra tokens, because the cut may split the last word


class TokenSequence(NamedTuple):
    """A sequence without padding.

    :param type_ids: 0 for the query's part, 1 for the item's.
    """

    ids: list[int]
    type_ids: list[int]


@dataclass(frozen=True)
class _Half:
    """The template's own tokens before and after a text that is encoded alone."""

    before: list[int]
    after: list[int]

    @property
    def prompt(self) -> int:
        """Number of the prompt's tokens: those between the first token and the text."""
        return max(0, len(self.before) - 1)

    def around(self, text: list[int]) -> TokenSequence:
        """Put a text into the half."""
        ids = [*self.before, *text, *self.after]
        return TokenSequence(ids, [0] * len(ids))


@dataclass(frozen=True)
class _Frame:
    """The template's own tokens before, between and after query and item."""

    parts: tuple[TokenSequence, ...]

    @classmethod
    def of(cls, encoding: Encoding) -> _Frame:
        """Read the frame from an encoded example pair."""
        parts, current = [TokenSequence([], []) for _ in range(3)], 0
        for token, kind, place in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if place is None:
                parts[current].ids.append(token)
                parts[current].type_ids.append(kind)
            else:
                current = place + 1
        return cls(tuple(parts))

    def around(self, *texts: list[int]) -> TokenSequence:
        """Put texts into the frame; the first gets type 0, the second type 1."""
        ids, types = list(self.parts[0].ids), list(self.parts[0].type_ids)
        for place, (text, after) in enumerate(zip(texts, self.parts[1:], strict=True)):
            ids += text
            types += [place] * len(text)
            ids += after.ids
            types += after.type_ids
        return TokenSequence(ids, types)

    def halves(self) -> tuple[_Half, _Half]:
        """Take query and item apart, where the type ids change."""
        before, between, after = self.parts
        switch = between.type_ids.index(1) if 1 in between.type_ids else len(between.ids)
        return _Half(before.ids, between.ids[:switch]), _Half(between.ids[switch:], after.ids)


class CappedTokenizer:
    """Tokenises queries and items separately, each cut to its cap.

    :param tokenizer: the bundle's; threads share it, so it is never changed.
    """

    def __init__(self, tokenizer: Tokenizer, query_cap: int, item_cap: int) -> None:
        self._tokenizer, self._query_cap, self._item_cap = tokenizer, query_cap, item_cap
        self._pair = _Frame.of(tokenizer.encode("a", "b"))
        self._query, self._item = self._pair.halves()
        special = special_ids(tokenizer)
        self._content = np.ones(max([tokenizer.get_vocab_size(), *(i + 1 for i in special)]), dtype=np.bool_)
        self._content[special] = False

    @property
    def prompts(self) -> tuple[int, int]:
        """Numbers of tokens of the query's and of the item's prompt, in a template of the split backbone."""
        return self._query.prompt, self._item.prompt

    def query(self, text: str) -> TokenSequence:
        """Tokenise a query as a sequence of its own, with its prompt."""
        return self.queries([text])[0]

    def queries(self, texts: Sequence[str]) -> list[TokenSequence]:
        """Tokenise queries, each as a sequence of its own, with its prompt."""
        return [self._query.around(ids) for ids in self._ids(texts, self._query_cap)]

    def items(self, texts: Sequence[str]) -> list[TokenSequence]:
        """Tokenise items, each as a sequence of its own, with its prompt."""
        return [self._item.around(ids) for ids in self._ids(texts, self._item_cap)]

    def pairs(self, query: str, items: Sequence[str]) -> list[TokenSequence]:
        """Tokenise a query with each item, in order."""
        (query_ids,) = self._ids([query], self._query_cap)
        return [self._pair.around(query_ids, ids) for ids in self._ids(items, self._item_cap)]

    def query_spans(self, text: str) -> list[tuple[int, int] | None]:
        """Find where the tokens of a query's sequence lie in its text, those of the prompt left out.

        :return: first character and the one after the last; None for the template's own tokens.
        """
        return self._spans(text, self._query_cap, self._query)

    def item_spans(self, text: str) -> list[tuple[int, int] | None]:
        """Find where the tokens of an item's sequence lie in its text, as :meth:`query_spans` does."""
        return self._spans(text, self._item_cap, self._item)

    def are_content(self, ids: list[int]) -> NDArray[np.bool_]:
        """Mark the tokens that are not special, ``[n]`` bool."""
        content: NDArray[np.bool_] = self._content[ids]
        return content

    def _ids(self, texts: Sequence[str], cap: int) -> list[list[int]]:
        prefixes = [self._cut(clean(text), cap) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prefixes, add_special_tokens=False)
        return [
            encoding.ids if len(encoding.ids) <= cap else self._whole_words(text, cap)
            for encoding, text in zip(encodings, prefixes, strict=True)
        ]

    def _spans(self, text: str, cap: int, half: _Half) -> list[tuple[int, int] | None]:
        encoding = self._tokenizer.encode(self._cut(clean(text), cap), add_special_tokens=False)
        spans = encoding.offsets[: words_within(encoding.word_ids, cap)]
        return [*[None] * (len(half.before) - half.prompt), *spans, *[None] * len(half.after)]

    def _whole_words(self, text: str, cap: int) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)  # encode_batch_fast has no word ids
        ids: list[int] = encoding.ids[: words_within(encoding.word_ids, cap)]
        return ids

    def _cut(self, text: str, cap: int) -> str:
        """Cut a very long text to a prefix with the same first tokens, to save time.

        The prefix grows until it has more tokens than the cap, with a margin for the word that the cut may split.
        Characters after the first million are ignored.
        """
        size, enough = cap * _CHARS_PER_TOKEN, cap + _MARGIN
        while size < min(len(text), MAX_ITEM_CHARS):
            encoding = self._tokenizer.encode(text[:size], add_special_tokens=False)
            # The tokenizer's own truncation moves the rest into further encodings.
            ends = [end for part in (encoding, *encoding.overflowing) for _, end in part.offsets]
            if len(ends) > enough:
                return text[: ends[enough]]
            size *= 4
        return text[:MAX_ITEM_CHARS]


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """List the ids of a tokenizer's special tokens."""
    return [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]


def pad_batch(sequences: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
    """Pad a batch of sequences, at least one, to the longest.

    :param sequences: :class:`TokenSequence`, or the tokenizer's own encodings without padding.
    :return: the graph's inputs, each ``[batch, seq]`` int64, padded with 0.
    """
    width = max([1, *(len(s.ids) for s in sequences)])
    inputs = {name: np.zeros((len(sequences), width), dtype=np.int64) for name in INPUTS}
    for row, sequence in enumerate(sequences):
        size = len(sequence.ids)
        inputs["input_ids"][row, :size] = sequence.ids
        inputs["attention_mask"][row, :size] = 1
        inputs["token_type_ids"][row, :size] = sequence.type_ids
    return inputs
