"""Queries that need no labels: trained on, tested on, or labelled in an earlier cycle."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.io.digest import hash_int
from darl_opensearch.records.lines import LineKind
from darl_opensearch.text import same_text

_QUERIES = LineKind(item="optional", may_be_empty=True)  # judgments, or bare queries


@dataclass(frozen=True)
class LabelledQueries:
    """Labelled queries.

    :param trained: training queries with item texts: what coverage starts from.
    :param judged: all labelled queries of training, dev and test sets and earlier cycles, normalised by
        :func:`darl_opensearch.text.same_text`.
    """

    trained: Sequence[tuple[str, Sequence[str]]] = ()
    judged: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls,
        trained: Iterable[Path],
        held_out: Iterable[Path],
        texts: Callable[[list[str]], Mapping[str, str]],
        *,
        most: int = 5000,
        items_per_query: int = 5,
        seed: int = 0,
    ) -> LabelledQueries:
        """Read judgments; only a sample of the training queries keeps its items.

        :param held_out: JSONL files of judgments, or of bare queries, that were not trained on.
        :param texts: looks up item texts by id; items without a text are left out.
        :param most: size of the sample.
        :raises InputError: for a file that cannot be read, or a line without a query.
        """
        files = list(trained)
        judged: set[str] = set()
        sampled: list[tuple[int, str]] = []  # a heap with the largest draw first
        for path in files:
            for line in _QUERIES.read(path):
                if (key := same_text(line.query)) not in judged:
                    judged.add(key)
                    heapq.heappush(sampled, (-draw_bits(key, seed, "known"), key))
                    if len(sampled) > most:
                        heapq.heappop(sampled)
        for path in held_out:
            judged.update(same_text(line.query) for line in _QUERIES.read(path))
        sampled_items: dict[str, tuple[str, list[str]]] = {
            key: ("", []) for _, key in sorted(sampled, key=lambda pair: pair[1])
        }
        for path in files:
            for line in _QUERIES.read(path):
                key = same_text(line.query)
                if key in sampled_items and line.item_id and len(sampled_items[key][1]) < items_per_query:
                    sampled_items[key] = (line.query, [*sampled_items[key][1], line.item_id])
        wanted = list(dict.fromkeys(item for _, ids in sampled_items.values() for item in ids))
        item_texts = texts(wanted) if wanted else {}
        with_texts = (
            (query, tuple(item_texts[item] for item in ids if item in item_texts))
            for query, ids in sampled_items.values()
        )
        return cls(tuple(pair for pair in with_texts if pair[1]), frozenset(judged))

    def without(self, keys: Iterable[str]) -> LabelledQueries:
        """Remove queries from the trained ones; they still count as labelled."""
        removed = frozenset(keys)
        trained = tuple(pair for pair in self.trained if same_text(pair[0]) not in removed)
        return LabelledQueries(trained, self.judged)


def draw_bits(key: str, seed: int, purpose: str) -> int:
    """Draw 64 random bits that depend on text, seed and purpose only."""
    return hash_int(f"{seed}\0{purpose}\0{key}")
