"""Judgments as the Workbench takes them: by the query's text, with ratings as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.cluster.workbench.api import FORBIDDEN
from darl_opensearch.errors import InputError
from darl_opensearch.records.judgments import gather_judgments
from darl_opensearch.records.lines import DataLine, two_grades
from darl_opensearch.scores import GradeScale

Ratings = Literal["grade", "gain"]
RESERVED = "#:\r\n"  # they separate a query from its custom fields
MOST_QUERY_CHARS = 2000
MOST_NESTED = 10_000  # index.mapping.nested_objects.limit: queries and ratings of one list of judgments


@dataclass
class QueriesByText:
    """Collects judgments by the query's text: the Workbench knows no query ids.

    :param judged: grade and place by query and item.
    """

    judged: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)
    _pairs: set[tuple[str, str]] = field(default_factory=set)

    def add(self, line: DataLine) -> tuple[str, str | None]:
        """Add a judgment; a pair may have the same grade under two query ids.

        :raises InputError: if it has two grades.
        """
        text = self._texts.setdefault(line.query_key, line.query)
        if text != line.query:
            return text, None
        items = self.judged.setdefault(line.query, {})
        before, first = items.setdefault(line.item_id, (line.grade, line.where))
        pair = (line.query_key, line.item_id)
        if pair in self._pairs:
            return text, first
        self._pairs.add(pair)
        if before != line.grade:
            raise two_grades(line, before, first, todo="the Workbench has one rating for a query's text and an item")
        return text, None


def read_grades(path: Path, scale: GradeScale) -> dict[str, dict[str, int]]:
    """Read a file of judgments.

    :return: grade by query's text and item.
    :raises InputError: for an invalid line, or a pair with two grades.
    """
    ledger = QueriesByText()
    gather_judgments(path, ledger, None, scale.k)
    return {query: {item: grade for item, (grade, _) in items.items()} for query, items in ledger.judged.items()}


def explain_exclusion(query: str, modes: Sequence[Mode]) -> str:
    """Say why a query cannot be in an experiment: the Workbench refuses it, or it would not be reranked.

    :param modes: of the pipelines.
    :return: the reason; empty if there is none.
    """
    if len(query) > MOST_QUERY_CHARS:
        return f"more than {MOST_QUERY_CHARS:,} characters"
    if set(query) & set(FORBIDDEN):
        return f"one of {' '.join(FORBIDDEN)}"
    if set(query) & set(RESERVED):
        return "#, : or a line break"
    if modes and "${" in query:
        return "${"
    if "connector" in modes and query.lstrip()[:1] in ("[", "{"):
        return "[ or { at its beginning"
    if any(char < " " for char in query):
        return "a control character"
    return ""


def leave_out(judged: Mapping[str, Mapping[str, int]], modes: Sequence[Mode]) -> tuple[dict[str, Any], dict[str, int]]:
    """Leave out the queries that cannot be in an experiment.

    :return: the others with their grades, and how many were left out, by reason.
    :raises InputError: if none is left.
    """
    reasons = {query: explain_exclusion(query, modes) for query in judged}
    left_out = dict(Counter(reason for reason in reasons.values() if reason))
    kept = {query: grades for query, grades in judged.items() if not reasons[query]}
    if not kept:
        query, reason = next(iter(reasons.items()))
        raise InputError(
            f"no query can be in a query set: the first, {query!r}, has {reason}",
            todo="judge queries without such characters",
        )
    return kept, left_out


def make_lists(
    judged: Mapping[str, Mapping[str, int]], scale: GradeScale, ratings: Ratings
) -> Iterator[list[dict[str, Any]]]:
    """Make ``judgmentRatings``, in as many lists as an index's limit on nested objects requires.

    :param ratings: ``grade``: its number; ``gain``: log2(1 + gain), of which the Workbench's nDCG makes the gain again.
    """
    values = [f"{grade if ratings == 'grade' else math.log2(1 + gain):.6g}" for grade, gain in enumerate(scale.gains)]
    entries: list[dict[str, Any]] = []
    size = 0
    for query, grades in judged.items():
        if entries and size + 1 + len(grades) > MOST_NESTED:
            yield entries
            entries, size = [], 0
        rows = [{"docId": item, "rating": values[grade]} for item, grade in grades.items()]
        entries.append({"query": query, "ratings": rows})
        size += 1 + len(rows)
    yield entries
