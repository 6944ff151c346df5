"""Judgments: queries with graded items; pairs are unique, and a query id has one text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from darl_opensearch.errors import InputError
from darl_opensearch.io.digest import digest_data
from darl_opensearch.records.items import Item
from darl_opensearch.records.lines import DataLine, LineKind, changed_query, pair_twice
from darl_opensearch.records.traffic import TrafficQuery
from darl_opensearch.text import same_text


@dataclass(frozen=True)
class JudgedQuery:
    """A query with its judged items.

    :param query_id: its id, or its text if it has none.
    :param slice: traffic slice, or ``""``.
    """

    query_id: str
    query: str
    item_ids: tuple[str, ...]
    grades: tuple[int, ...]
    slice: str = ""


class Ledger(Protocol):
    """Collects judgments, in memory or in a database."""

    def add(self, line: DataLine) -> tuple[str, str | None]:
        """Add a judgment, unless its query id has another text or its pair is a repeat.

        :return: the query id's text, and where the pair was read before, or None.
        """
        ...


def gather_judgments(
    path: Path, ledger: Ledger, items: Container[str] | None, k: int, blank: Counter[str] | None = None
) -> None:
    """Check a file of judgments and collect them.

    :param path: JSONL: query, item_id and grade; optionally query_id and slice.
    :param items: ids of all items; None: any id is accepted.
    :param blank: ids of items without text, whose judgments are counted here and passed over.
    :raises InputError: for an unknown grade or item, a repeated pair, an empty query, or a query id with two texts.
    """
    for line in LineKind(items=items, k=k, blank=blank or Counter()).read(path):
        text, first = ledger.add(line)
        if text != line.query:
            raise changed_query(line, text)
        if first is not None:
            raise pair_twice(line, first)


class _InMemory:
    def __init__(self) -> None:
        self.queries: dict[str, tuple[str, str, dict[str, tuple[int, str]]]] = {}  # text, slice, grades and places

    def add(self, line: DataLine) -> tuple[str, str | None]:
        text, _, judged = self.queries.setdefault(line.query_key, (line.query, line.slice, {}))
        if text != line.query or line.item_id not in judged:
            judged.setdefault(line.item_id, (line.grade, line.where))
            return text, None
        return text, judged[line.item_id][1]


def read_judgments(
    path: Path, items: Mapping[str, Item], k: int, blank: Counter[str] | None = None
) -> list[JudgedQuery]:
    """Read judgments into memory, by query; see :func:`gather_judgments`."""
    ledger = _InMemory()
    gather_judgments(path, ledger, items, k, blank)
    return [
        JudgedQuery(query_id, text, tuple(judged), tuple(grade for grade, _ in judged.values()), slice_)
        for query_id, (text, slice_, judged) in ledger.queries.items()
    ]


def digest_records(records: Iterable[Item | JudgedQuery | TrafficQuery]) -> str:
    """Digest items, or queries with items and grades, independently of their order.

    The digests of the records are summed, so that only one record is in memory at a time (an additive multiset hash:
    Clarke et al. 2003, "Incremental multiset hash functions"). This detects accidental differences, not deliberate
    collisions.

    :return: 64 hexadecimal digits.
    """
    total = count = 0
    for record in records:
        total += int(digest_data(repr(record)), 16)
        count += 1
    return digest_data(f"{count} {total % 2**256:064x}")


def check_disjoint(train: Container[str] | Sequence[JudgedQuery], dev: Sequence[JudgedQuery], *, where: str) -> None:
    """Refuse a query text that is in both the training and the dev part.

    :param train: training queries, or their texts in the form of :func:`darl_opensearch.text.same_text`.
    """
    trained = {same_text(q.query) for q in train} if isinstance(train, Sequence) else train
    for query in dev:
        if same_text(query.query) in trained:
            raise InputError(
                f"query {query.query!r} is also in the training part", where=where, todo="keep it in one of the two"
            )
