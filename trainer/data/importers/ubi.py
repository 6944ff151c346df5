"""Clicks from User Behavior Insights, as weak grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.digest import name_text
from darl_opensearch.io.jsonl import parse_json
from darl_opensearch.records.values import as_whole, parse_id
from darl_opensearch.settings import setting
from darl_opensearch.text import MAX_QUERY_CHARS, look_up, same_text
from trainer.data.importers.base import IMPORTERS, Gains, ItemsWritten, Labels, Target, TextFields, split_list
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.grading import GradeMapping
from trainer.data.importers.jsonl import import_items
from trainer.data.importers.template import choose_template
from trainer.data.tables import Row

QUERIES = FileSpec(
    "queries", "export of ubi_queries: one search per line", ("query_id", "user_query"), ("query_response_hit_ids",),
    ("ubi_queries",), may_lack=("query_id", "user_query"),
)  # fmt: skip
EVENTS = FileSpec(
    "events", "export of ubi_events: one event per line", ("action_name",),
    ("query_id", "event_attributes", "object_id", "rank"), ("ubi_events",), may_lack=("action_name",),
)  # fmt: skip
ITEMS = FileSpec("items", "one item per row; its id is the events' object_id", ("id",), (), ("items", "products"))
# Where an event names its item and its rank, in this order; the first is that of the schema. As columns of a table the
# names have dots, or are mapped with --field.
OBJECT_IDS = ("event_attributes.object.object_id", "event_attributes.object_id", "object.object_id", "object_id")
RANKS = (
    "event_attributes.position.ordinal.index", "event_attributes.position.ordinal", "event_attributes.rank",
    "position.ordinal.index", "position.ordinal", "rank",
)  # fmt: skip
_SCHEMA = "see the UBI schema: event_attributes holds object.object_id and position.ordinal"
_TABLES = (
    "CREATE TABLE search (id TEXT PRIMARY KEY, text TEXT, spelt TEXT) WITHOUT ROWID",
    "CREATE TABLE viewed (search TEXT, item TEXT, rank INTEGER, field TEXT, PRIMARY KEY (search, item)) WITHOUT ROWID",
    "CREATE TABLE shown (search TEXT, item TEXT, rank INTEGER, PRIMARY KEY (search, item)) WITHOUT ROWID",
    "CREATE TABLE clicked (search TEXT, item TEXT, PRIMARY KEY (search, item)) WITHOUT ROWID",
)
# Ranks that begin with 0 in any event of the log are counted from 1, as max_rank is.
_SHOWN = """
INSERT OR IGNORE INTO shown SELECT v.search, v.item, v.rank + (b.lowest = 0) FROM viewed v
JOIN (SELECT field, min(rank) AS lowest FROM viewed GROUP BY field) b ON b.field = v.field
WHERE v.rank + (b.lowest = 0) <= ?
"""
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
        counts = self._read_queries(files, store) | self._read_events(files, store)
        counts["clicks_on_nothing_shown"] = _count(
            store, "SELECT count(*) FROM clicked c WHERE NOT EXISTS "
            "(SELECT 1 FROM shown s WHERE s.search = c.search AND s.item = c.item)",
        )  # fmt: skip
        for statement in (_RATES, _SPELLING, "CREATE INDEX spelling_text ON spelling (text)"):
            store.sql(statement)
        where = str(files.paths[EVENTS.name])
        if not _count(store, "SELECT count(*) FROM rate"):
            raise InputError(f"the log has no impressions{_passed_over(counts)}", where=where,
                             todo="check --set shown_by and shown_actions")  # fmt: skip
        if not _count(store, "SELECT count(*) FROM rate WHERE expected > 0"):
            raise InputError(
                f"none of the impressions was clicked{_passed_over(counts)}", where=where,
                todo="check --set click_actions, and that query_id and object_id agree between events and searches",
            )  # fmt: skip
        return counts | self._grade(grading, store, where)

    def _read_queries(self, files: ImportFiles, store: Gathering) -> dict[str, int]:
        """Read the searches and the items that they returned."""
        names = ("searches_without_id", "searches_without_words", "searches_of_an_id_seen_before", "hits_without_id",
                 "repeated_hits")  # fmt: skip
        counts = dict.fromkeys(names, 0)
        for where, row in files.rows(QUERIES):
            search, query = parse_id(row, "query_id", where).strip(), row.get("user_query")
            query = " ".join(query.split()) if isinstance(query, str) else ""
            if not query or len(query) > MAX_QUERY_CHARS:  # such as the searches of category pages
                counts["searches_without_words"] += 1
                continue
            if not search:
                counts["searches_without_id"] += 1
                continue
            if not store.sql(
                "INSERT OR IGNORE INTO search VALUES (?, ?, ?)", (search, same_text(query), query)
            ).rowcount:
                # Another page of the search, with unknown ranks, or another query with the same id.
                counts["searches_of_an_id_seen_before"] += 1
                continue
            if self.shown_by == "hits":
                for rank, hit in enumerate(_hits(row, where)[: self.max_rank], 1):
                    item_id = parse_id({"query_response_hit_ids": hit}, "query_response_hit_ids", where).strip()
                    counts["hits_without_id"] += not item_id
                    if item_id:
                        counts["repeated_hits"] += not store.sql(
                            "INSERT OR IGNORE INTO shown VALUES (?, ?, ?)", (search, item_id, rank)
                        ).rowcount
        return counts

    def _read_events(self, files: ImportFiles, store: Gathering) -> dict[str, int]:
        """Read clicks and, with ``shown_by`` events, impressions."""
        clicks, views = set(split_list(self.click_actions)), set(split_list(self.shown_actions))
        names = ("other_events", "events_without_query_id", "events_without_item", "repeated_clicks",
                 "impressions_without_rank", "repeated_impressions", "impressions_below_max_rank")  # fmt: skip
        counts = dict.fromkeys(names, 0)
        for where, row in files.rows(EVENTS):
            action = str(row.get("action_name") or "").strip()
            showing = action in views and self.shown_by == "events"
            if not showing and action not in clicks:
                counts["other_events"] += 1
                continue
            search = parse_id(row, "query_id", where).strip()
            _, item_id = _first_of(OBJECT_IDS, _with_attributes(row, where), where)
            item_id = parse_id({"object_id": item_id}, "object_id", where).strip()
            if not search or not item_id:
                counts["events_without_item" if search else "events_without_query_id"] += 1
                continue
            if action in clicks:
                counts["repeated_clicks"] += not store.sql(
                    "INSERT OR IGNORE INTO clicked VALUES (?, ?)", (search, item_id)
                ).rowcount
            if showing:
                field, rank = _rank(_with_attributes(row, where), where)
                counts["impressions_without_rank"] += rank is None
                if rank is not None:
                    counts["repeated_impressions"] += not store.sql(
                        "INSERT OR IGNORE INTO viewed VALUES (?, ?, ?, ?)", (search, item_id, rank, field)
                    ).rowcount
        if self.shown_by == "events":
            viewed = _count(store, "SELECT count(*) FROM viewed")
            counts["impressions_below_max_rank"] = viewed - store.sql(_SHOWN, (self.max_rank,)).rowcount
        return counts

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


def _passed_over(counts: Mapping[str, int]) -> str:
    found = ", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in counts.items() if n)
    return f" ({found})" if found else ""


def _hits(row: Row, where: str) -> list[Any]:
    """Read the items of a search; a table holds them as the text of a JSON list."""
    hits = row.get("query_response_hit_ids") or []
    if isinstance(hits, str) and hits.lstrip().startswith("["):
        hits = parse_json(hits.encode(), where, todo="export it again")
    if not isinstance(hits, list):
        raise InputError(
            f"field 'query_response_hit_ids' is {short(hits)}, not a list", where=where, todo="export it again"
        )
    return hits


def _with_attributes(row: Row, where: str) -> Row:
    """Check the event's attributes; a table may hold them as the text of a JSON object."""
    value = row.get("event_attributes")
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parse_json(value.encode(), where, todo="export it again")
    if value is not None and value != "" and not isinstance(value, dict):
        raise InputError(f"field 'event_attributes' is {short(value)}, not an object", where=where, todo=_SCHEMA)
    return {**row, "event_attributes": value}


def _first_of(paths: Sequence[str], row: Row, where: str) -> tuple[str, Any]:
    """Return the first path of which the row has a value, and the value; ``""`` and None without one."""
    for path in paths:
        value = look_up(row, path)
        if isinstance(value, list):
            raise InputError(f"field {path!r} is {short(value)}, not one value", where=where, todo=_SCHEMA)
        if value not in (None, "", {}):
            return path, value
    return "", None


def _rank(row: Row, where: str) -> tuple[str, int | None]:
    """Return the field of an event's rank, and the rank, or None."""
    field, value = _first_of(RANKS, row, where)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    rank = as_whole(value)
    if value is not None and (rank is None or rank < 0):
        raise InputError(f"field {field!r} is {short(value)}, not a rank", where=where, todo="send the rank shown")
    return field, rank
