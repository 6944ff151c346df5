"""Tokenising pairs as ML Commons does: with the bundle's tokenizer, pair template and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.text import MAX_ITEM_CHARS, clean

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Characters per token beyond which a text counts as long; ordinary text has 3 to 6.
_USUAL_CHARS_PER_TOKEN, _MOST_CHARS_PER_TOKEN = 8, 64
_MARGIN = 128  # extra tokens, because the cut may split the last word


class PairEncoder:
    """Tokenises pairs; very long texts are cut first to save time.

    :param tokenizer: the bundle's; shared between threads and never changed.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length

    def __call__(self, query: str, documents: Sequence[str]) -> list[Encoding]:
        """Tokenise one query with each document, in order."""
        query = self.cut(clean(query), _USUAL_CHARS_PER_TOKEN)  # it is tokenised again for each document
        pairs = [(query, self.cut(clean(text))) for text in documents]
        encodings: list[Encoding] = self._tokenizer.encode_batch(pairs)
        return encodings

    def cut(self, text: str, chars_per_token: int = _MOST_CHARS_PER_TOKEN) -> str:
        """Cut a long text to a prefix with the same first ``max_length`` tokens.

        The prefix grows until it has more tokens than can be kept, plus a margin for the word that the cut may split.
        Characters after the first million are ignored. If query and document *both* exceed the whole input, one token
        at their border may go to the other side.

        :param chars_per_token: characters per token beyond which a text counts as long.
        """
        size, enough = self._max_length * chars_per_token, self._max_length + _MARGIN
        while size < min(len(text), MAX_ITEM_CHARS):
            encoding = self._tokenizer.encode(text[:size], add_special_tokens=False)
            # The tokenizer's own truncation moves the rest into further encodings.
            ends = [end for part in (encoding, *encoding.overflowing) for _, end in part.offsets]
            if len(ends) > enough:
                return text[: ends[enough]]
            size *= 4
        return text[:MAX_ITEM_CHARS]


def pad_batch(encodings: Sequence[Encoding]) -> dict[str, NDArray[np.int64]]:
    """Pad a batch of encodings, at least one, to the longest.

    :return: the graph's inputs, each ``[batch, seq]`` int64, padded with 0.
    """
    width = max([1, *(len(e.ids) for e in encodings)])
    inputs = {name: np.zeros((len(encodings), width), dtype=np.int64) for name in INPUTS}
    for row, encoding in enumerate(encodings):
        size = len(encoding.ids)
        inputs["input_ids"][row, :size] = encoding.ids
        inputs["attention_mask"][row, :size] = encoding.attention_mask
        inputs["token_type_ids"][row, :size] = encoding.type_ids
    return inputs
