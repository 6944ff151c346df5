"""Clicks from User Behavior Insights, as weak grades."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.digest import name_text
from darl_opensearch.settings import setting
from darl_opensearch.text import MAX_QUERY_CHARS, same_text
from trainer.data.importers.base import (
    IMPORTERS,
    FileSpec,
    Gains,
    GradeMapping,
    ImportFiles,
    ItemsWritten,
    Labels,
    Target,
    TextFields,
    choose_template,
    id_of,
    split_list,
)
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.jsonl import import_items

QUERIES = FileSpec(
    "queries", "export of ubi_queries: one search per line", ("query_id", "user_query"), ("query_response_hit_ids",),
    ("ubi_queries",),
)  # fmt: skip
EVENTS = FileSpec(
    "events", "export of ubi_events: one event per line", ("action_name",), ("query_id", "event_attributes"),
    ("ubi_events",),
)  # fmt: skip
ITEMS = FileSpec("items", "one item per row; its id is the events' object_id", ("id",), (), ("items", "products"))
_TABLES = (
    "CREATE TABLE search (id TEXT PRIMARY KEY, text TEXT, spelt TEXT) WITHOUT ROWID",
    "CREATE TABLE shown (search TEXT, item TEXT, rank INTEGER, PRIMARY KEY (search, item)) WITHOUT ROWID",
    "CREATE TABLE clicked (search TEXT, item TEXT, PRIMARY KEY (search, item)) WITHOUT ROWID",
)
_RATES = """
CREATE TABLE rate AS SELECT rank, 1.0 * count(c.item) / count(*) AS expected
FROM shown s LEFT JOIN clicked c ON c.search = s.search AND c.item = s.item GROUP BY rank
"""
# Searches with the same text may differ in case: any one spelling can represent them.
_SPELLING = "CREATE TABLE spelling AS SELECT text, max(spelt) AS spelt FROM search GROUP BY text"
_PAIRS = """
SELECT q.text, w.spelt, s.item, count(*) AS impressions, count(c.item) AS clicks, sum(r.expected) AS expected
FROM shown s JOIN search q ON q.id = s.search JOIN rate r ON r.rank = s.rank
JOIN spelling w ON w.text = q.text
LEFT JOIN clicked c ON c.search = s.search AND c.item = s.item
GROUP BY q.text, s.item ORDER BY q.text, s.item
"""


@dataclass(frozen=True, kw_only=True)
class ClickRules:
    """What counts as an impression and as a click."""

    min_impressions: int = setting(10, "minimum impressions of an item for a query", least=1)
    max_rank: int = setting(20, "deepest rank that counts as seen", least=1)
    shown_by: Literal["hits", "events"] = setting(
        "hits",
        "source of impressions: query_response_hit_ids of the searches, or events with an action in shown_actions",
    )
    shown_actions: str = setting("impression,view", "actions that count as an impression")
    click_actions: str = setting("click", "actions that count as a click")


@IMPORTERS.register(
    "ubi", cite="COEC: Zhang and Jones 2007 (Query Log Analysis workshop, WWW); schema: https://github.com/o19s/ubi 1.3"
)
@dataclass(frozen=True, kw_only=True)
class Ubi(ClickRules):
    """Clicks of User Behavior Insights, as weak grades by clicks over expected clicks (COEC).

    An item with the average click rate of its rank has COEC 1.
    """

    sources: ClassVar[tuple[FileSpec, ...]] = (QUERIES, EVENTS, ITEMS)
    cuts: str = setting("0.5,1.5", "cut points between grades, in clicks over expected clicks")
    labels: Labels = ""
    gains: Gains = ""
    items: ItemsWritten = "all"
    template: TextFields = ""

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Count impressions and clicks, and grade the pairs.

        :raises InputError: for a log without impressions or clicks.
        """
        counts = self.count(files, store)
        import_items(ITEMS, files, store)
        notes = ("Grades from clicks are weak: see docs/data.md before you train on them alone.",)
        template = choose_template(store, self.template)
        scale = GradeMapping.of(self.labels, self.gains, self.cuts).scale(0)
        return Target(scale, template, self.items == "judged", counts, notes)

    def count(self, files: ImportFiles, store: Gathering) -> dict[str, int]:
        """Grade the pairs by impressions and clicks, without reading items.

        :return: counts of skipped rows and pairs, by reason.
        :raises InputError: for a log without impressions or clicks.
        """
        grading = GradeMapping.of(self.labels, self.gains, self.cuts)
        for statement in _TABLES:
            store.sql(statement)
        counts = self._read_queries(files, store)
        counts["other_events"] = self._read_events(files, store)
        counts["clicks_on_nothing_shown"] = _count(
            store, "SELECT count(*) FROM clicked c WHERE NOT EXISTS "
            "(SELECT 1 FROM shown s WHERE s.search = c.search AND s.item = c.item)",
        )  # fmt: skip
        for statement in (_RATES, _SPELLING, "CREATE INDEX spelling_text ON spelling (text)"):
            store.sql(statement)
        where = str(files.paths[EVENTS.name])
        if not _count(store, "SELECT count(*) FROM rate"):
            raise InputError("the log has no impressions", where=where, todo="check --set shown_by and shown_actions")
        if not _count(store, "SELECT count(*) FROM rate WHERE expected > 0"):
            raise InputError(
                "none of the impressions was clicked", where=where,
                todo="check --set click_actions, and that query_id and object_id agree between events and searches",
            )  # fmt: skip
        return counts | self._grade(grading, store, where)

    def _read_queries(self, files: ImportFiles, store: Gathering) -> dict[str, int]:
        """Read the searches and the items that they returned."""
        counts = {"searches_without_words": 0, "searches_of_an_id_seen_before": 0}
        for where, row in files.rows(QUERIES):
            search, query = id_of(row, "query_id", where), row["user_query"]
            query = " ".join(query.split()) if isinstance(query, str) else ""
            if not query or len(query) > MAX_QUERY_CHARS:  # such as the searches of category pages
                counts["searches_without_words"] += 1
                continue
            if not store.sql(
                "INSERT OR IGNORE INTO search VALUES (?, ?, ?)", (search, same_text(query), query)
            ).rowcount:
                # Another page of the search, with unknown ranks, or another query with the same id.
                counts["searches_of_an_id_seen_before"] += 1
                continue
            hits = row.get("query_response_hit_ids") or []
            if not isinstance(hits, list):
                raise InputError(
                    f"field 'query_response_hit_ids' is {short(hits)}, not a list", where=where, todo="export it again"
                )
            if self.shown_by == "hits":
                for rank, hit in enumerate(hits[: self.max_rank], 1):
                    item_id = id_of({"query_response_hit_ids": hit}, "query_response_hit_ids", where)
                    store.sql("INSERT OR IGNORE INTO shown VALUES (?, ?, ?)", (search, item_id, rank))
        return counts

    def _read_events(self, files: ImportFiles, store: Gathering) -> int:
        """Read clicks and, with ``shown_by`` events, impressions."""
        clicks, views = set(split_list(self.click_actions)), set(split_list(self.shown_actions))
        other = 0
        for where, row in files.rows(EVENTS):
            action = str(row["action_name"])
            showing = action in views and self.shown_by == "events"
            if not showing and action not in clicks:
                other += 1
                continue
            attributes = _object(row, "event_attributes", where)
            item_id = id_of(_object(attributes, "object", where), "object_id", where)
            search = id_of(row, "query_id", where)
            if action in clicks:
                store.sql("INSERT OR IGNORE INTO clicked VALUES (?, ?)", (search, item_id))
            if showing and (rank := _rank(_object(attributes, "position", where), where)) <= self.max_rank:
                store.sql("INSERT OR IGNORE INTO shown VALUES (?, ?, ?)", (search, item_id, rank))
        return other

    def _grade(self, grading: GradeMapping, store: Gathering, where: str) -> dict[str, int]:
        counts = {"pairs_shown_too_rarely": 0, "pairs_no_click_was_expected_of": 0}
        for text, query, item_id, impressions, clicks, expected in store.sql(_PAIRS):
            if impressions < self.min_impressions:
                counts["pairs_shown_too_rarely"] += 1
            elif not expected:
                counts["pairs_no_click_was_expected_of"] += 1
            else:
                coec = clicks / expected
                extra = {"impressions": impressions, "clicks": clicks, "coec": round(coec, 4), "weak": True}
                grade = grading.grade(round(coec, 9), "coec", where)  # 1.4999999999999998 is 1.5
                store.judge(where, name_text("q", text), query, item_id, grade, extra=extra)
        return counts


def _count(store: Gathering, statement: str) -> int:
    return int(store.sql(statement).fetchone()[0])


def _object(row: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = row.get(name)
    if not isinstance(value, dict):
        raise InputError(
            f"field {name!r} is {short(value)}, not an object",
            where=where,
            todo="see the UBI schema: event_attributes holds object.object_id and position.ordinal",
        )
    return value


def _rank(position: Mapping[str, Any], where: str) -> int:
    value = position.get("ordinal")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"field 'ordinal' is {short(value)}, not a rank", where=where, todo="send the rank shown")
    return value
