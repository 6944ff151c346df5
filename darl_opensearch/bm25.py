"""A first stage without a cluster: BM25 by SQLite's FTS5.

What the demo searches where no OpenSearch can run, and what stands in for the pipeline's retrieval when the
OOD score is calibrated from bare queries.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

from darl_opensearch.io.sqlite import open_scratch

_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True)
class Bm25Hit:
    """One item found.

    :param score: BM25, higher is better.
    """

    item_id: str
    score: float


class Bm25Index:
    """Items by their words.

    :param on_disk: keep them in a temporary file of SQLite's own instead of in memory.
    """

    def __init__(self, items: Iterable[tuple[str, str]], *, on_disk: bool = False) -> None:
        self._db = open_scratch("" if on_disk else ":memory:")
        weakref.finalize(self, self._db.close)
        self._db.execute("CREATE VIRTUAL TABLE item USING fts5(item_id UNINDEXED, text, tokenize='unicode61')")
        self._db.executemany("INSERT INTO item VALUES (?, ?)", items)

    def search(self, query: str, size: int) -> list[Bm25Hit]:
        """Find the items that share words with a query, as a ``match`` query does.

        :param query: any text; its punctuation is no syntax.
        :return: hits, best first; ties in order of insertion.
        """
        words = dict.fromkeys(_WORD.findall(query.lower()))
        if not words:
            return []
        expression = " OR ".join(f'"{word}"' for word in words)
        rows = self._db.execute(
            "SELECT item_id, -bm25(item) AS score FROM item WHERE item MATCH ? ORDER BY score DESC, rowid LIMIT ?",
            (expression, size),
        )
        return [Bm25Hit(item_id, score) for item_id, score in rows]
