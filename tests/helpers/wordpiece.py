"""A WordPiece vocabulary that is the same in every process.

The one that ``tokenizers`` trains is not: words that are equally frequent come in the order of a hash that is drawn at
the start, and with it weights, scores and orders of the tests' models would differ from run to run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tokenizers import Tokenizer


def vocabulary(
    tokenizer: Tokenizer, texts: Iterable[str], *, size: int, special: Sequence[str], alphabet: Iterable[str] = ()
) -> dict[str, int]:
    """Merge the most frequent pair of pieces until there are enough; of equals the first by its letters."""
    words = Counter(
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    )
    split = {word: [word[0], *(f"##{letter}" for letter in word[1:])] for word in sorted(words)}
    tokens = [*special, *sorted({piece for pieces in split.values() for piece in pieces} | set(alphabet))]
    while len(tokens) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in split.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = first + second.removeprefix("##")
        if merged not in tokens:
            tokens.append(merged)
        for word, pieces in split.items():
            split[word] = _merge(pieces, first, second, merged)
    return {token: n for n, token in enumerate(tokens)}


def _merge(pieces: list[str], first: str, second: str, merged: str) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if piece == second and out and out[-1] == first:
            out[-1] = merged
        else:
            out.append(piece)
    return out
