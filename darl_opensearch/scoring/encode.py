"""Texts to token ids, as ML Commons does it: the bundle's tokenizer, its pair template, its truncation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.text import MAX_ITEM_CHARS, clean

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Characters a token at which a text counts as long; ordinary text has 3 to 6.
_USUAL_CHARS_PER_TOKEN, _MOST_CHARS_PER_TOKEN = 8, 64
_MARGIN = 128  # tokens that the last, split word of a cut text may be wrong about


class PairEncoder:
    """Tokenises pairs, quickly also where a text is absurdly long.

    :param tokenizer: the bundle's; shared between threads, never changed.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length

    def __call__(self, query: str, documents: Sequence[str]) -> list[Encoding]:
        """Tokenise one query with each document.

        :return: an encoding for each document, in order.
        """
        query = self.head(clean(query), _USUAL_CHARS_PER_TOKEN)  # it is tokenised again for each document
        pairs = [(query, self.head(clean(text))) for text in documents]
        encodings: list[Encoding] = self._tokenizer.encode_batch(pairs)
        return encodings

    def head(self, text: str, chars_per_token: int = _MOST_CHARS_PER_TOKEN) -> str:
        """Cut a long text to a beginning that has the same first ``max_length`` tokens.

        The beginning grows until it has more tokens than can be kept, with a margin for the word that the cut
        may have split; so the rest cannot reach the model. Only the first million characters are ever read:
        what has fewer tokens than that is blanks, not text. Where query and document *both* exceed the whole
        input, the odd token at their border may go to the other half.

        :param chars_per_token: with so many characters for each token, the text is long enough to be cut.
        :return: the text, or its beginning.
        """
        size, enough = self._max_length * chars_per_token, self._max_length + _MARGIN
        while size < min(len(text), MAX_ITEM_CHARS):
            encoding = self._tokenizer.encode(text[:size], add_special_tokens=False)
            # The tokenizer's own truncation puts what it cuts into further encodings.
            ends = [end for part in (encoding, *encoding.overflowing) for _, end in part.offsets]
            if len(ends) > enough:
                return text[: ends[enough]]
            size *= 4
        return text[:MAX_ITEM_CHARS]


def feed(encodings: Sequence[Encoding]) -> dict[str, NDArray[np.int64]]:
    """Pad encodings to the longest of them.

    :param encodings: encodings of one batch, at least one.
    :return: the graph's inputs, each ``[batch, seq]`` int64; padding is 0 everywhere.
    """
    width = max([1, *(len(e.ids) for e in encodings)])
    inputs = {name: np.zeros((len(encodings), width), dtype=np.int64) for name in INPUTS}
    for row, encoding in enumerate(encodings):
        size = len(encoding.ids)
        inputs["input_ids"][row, :size] = encoding.ids
        inputs["attention_mask"][row, :size] = encoding.attention_mask
        inputs["token_type_ids"][row, :size] = encoding.type_ids
    return inputs
