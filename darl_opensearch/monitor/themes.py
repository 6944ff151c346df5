"""Themes of strange traffic: queries grouped by a word that they share and that ordinary traffic does not have."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_QUERIES = 1000  # of each kind that are grouped, most OOD pairs first
_LEAST_QUERIES = 2  # a theme is more than one query
_WORD = re.compile(r"[^\W_]{2,}")


@dataclass(frozen=True)
class Asked:
    """A query that was asked.

    :param ood_pairs: of all its requests.
    :param flagged: whether a selection may choose it, see :class:`darl_opensearch.monitor.figures.Flagged`.
    """

    query: str
    requests: int
    ood_pairs: int
    flagged: bool = False


@dataclass(frozen=True)
class Theme:
    """Queries with a word in common.

    :param word: empty: queries of no theme.
    :param queries: most OOD pairs first.
    """

    word: str
    queries: tuple[Asked, ...]

    @property
    def ood_pairs(self) -> int:
        """OOD pairs of all its queries."""
        return sum(asked.ood_pairs for asked in self.queries)


def find_themes(strange: Sequence[Asked], usual: Iterable[str], most: int = 8) -> list[Theme]:
    """Group queries by words, greedily.

    Each round takes the word whose queries have most OOD pairs, weighed by how much rarer it is in ordinary traffic
    (log odds). A query is in one theme only. Grouping the model's features would need the bundle and its runtime; words
    need neither, and say what a theme is about. Text without spaces between its words is not grouped.

    :param strange: queries with OOD pairs.
    :param usual: texts of ordinary queries.
    :param most: themes.
    :return: by OOD pairs, largest first; queries of none come last.
    """
    left = [(asked, words_of(asked.query)) for asked in strange]
    ordinary, count = Counter[str](), 0
    for text in usual:
        ordinary.update(words_of(text))
        count += 1
    themes: list[Theme] = []
    while len(themes) < most:
        queries, pairs = Counter[str](), Counter[str]()
        for asked, words in left:
            queries.update(words)
            pairs.update(dict.fromkeys(words, asked.ood_pairs))
        best = max(
            (word for word in queries if queries[word] >= _LEAST_QUERIES),
            key=lambda word: (pairs[word] * _odds(queries[word], len(left), ordinary[word], count), word),
            default=None,
        )
        if best is None or _odds(queries[best], len(left), ordinary[best], count) <= 0:
            break
        themes.append(Theme(best, tuple(asked for asked, words in left if best in words)))
        left = [(asked, words) for asked, words in left if best not in words]
    themes.sort(key=lambda theme: (-theme.ood_pairs, theme.word))
    return [*themes, *([Theme("", tuple(asked for asked, _ in left))] if left else [])]


def words_of(text: str) -> list[str]:
    """List the words of a text, each once, in order."""
    return list(dict.fromkeys(_WORD.findall(text.casefold())))


def _odds(here: int, of_here: int, there: int, of_there: int) -> float:
    """Compare a word's share of two kinds of queries, by the logarithm; half a query is added to each."""
    return math.log((here + 0.5) / (of_here + 1)) - math.log((there + 0.5) / (of_there + 1))
