"""Rows and totals of a spool, kept as records are written, so that a page over ten million records parses none of them.

Each record leaves a narrow row: who was scored when, by which version, how much of it was OOD. From those, a day's
totals are added up once it has changed. Both lie in the spool's own file; rows go with their record. Totals hold the
sums over queries that intervals and tests need (:class:`darl_opensearch.stats.shares.ClusterSums`).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from darl_opensearch.io.digest import hash_int
from darl_opensearch.stats.shares import ClusterSums
from darl_opensearch.text import same_text

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
BATCH = 5000  # records taken in at once: some 50 ms
_DAY = f"timestamp_ms / {DAY_MS}"

_SCHEMA = f"""
CREATE TABLE line (id INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, alpha REAL NOT NULL, slice TEXT);
CREATE TABLE request_row (
  day INTEGER, seq INTEGER, timestamp_ms INTEGER, whole INTEGER, line INTEGER, query INTEGER, reranked INTEGER,
  candidates INTEGER, ood INTEGER, distance REAL, latency REAL, PRIMARY KEY (day, seq)
) WITHOUT ROWID;
CREATE TABLE pair_row (
  day INTEGER, seq INTEGER, timestamp_ms INTEGER, whole INTEGER, line INTEGER, query INTEGER, item INTEGER,
  grade INTEGER, ood INTEGER, weight REAL, distance REAL, PRIMARY KEY (day, seq)
) WITHOUT ROWID;
CREATE TABLE day_total (
  day INTEGER, line INTEGER, requests INTEGER, not_reranked INTEGER, queries INTEGER, pairs INTEGER, ood INTEGER,
  clusters INTEGER, hits REAL, totals REAL, hits_squared REAL, products REAL, totals_squared REAL, p50 REAL, p95 REAL,
  PRIMARY KEY (day, line)
) WITHOUT ROWID;
CREATE TABLE day_grade (
  day INTEGER, line INTEGER, grade INTEGER, weight REAL, PRIMARY KEY (day, line, grade)
) WITHOUT ROWID;
CREATE TABLE day_changed (day INTEGER PRIMARY KEY);
CREATE TABLE rollup (taken INTEGER NOT NULL);
INSERT INTO rollup VALUES (0);
INSERT OR REPLACE INTO counter SELECT 'stored_records', count(*) FROM record;
CREATE TRIGGER record_counted AFTER INSERT ON record
  BEGIN UPDATE counter SET value = value + 1 WHERE name = 'stored_records'; END;
CREATE TRIGGER record_out_of_rollup AFTER DELETE ON record BEGIN
  UPDATE counter SET value = value - 1 WHERE name = 'stored_records';
  DELETE FROM request_row WHERE day = OLD.{_DAY} AND seq = OLD.seq;
  DELETE FROM pair_row WHERE day = OLD.{_DAY} AND seq = OLD.seq;
  INSERT OR IGNORE INTO day_changed VALUES (OLD.{_DAY});
END;
"""


@dataclass(frozen=True)
class TrafficLine:
    """What is drawn as one line: a model version, with one slice of its traffic or all.

    :param slice: ``""``: requests without a slice; None: all traffic.
    """

    id: int
    model: str
    version: str
    alpha: float
    slice: str | None


@dataclass(frozen=True)
class Total:
    """Totals of one line over one span.

    :param start_ms: milliseconds since 1970.
    :param requests: those that were reranked; only they enter any other figure.
    :param sums: over queries, each counted once: OOD pairs and pairs per request.
    :param p50: median latency in ms; None if nothing was reranked.
    :param p95: 95th percentile of it.
    :param grades: estimated pairs by grade.
    """

    start_ms: int
    line: TrafficLine
    requests: int = 0
    not_reranked: int = 0
    queries: int = 0
    pairs: int = 0
    ood: int = 0
    sums: ClusterSums = ClusterSums(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50: float | None = None
    p95: float | None = None
    grades: tuple[tuple[int, float], ...] = ()


def has_rollup(db: sqlite3.Connection) -> bool:
    """Whether the tables are there."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rollup'").fetchone() is not None


def create_rollup(db: sqlite3.Connection, statements: Callable[[str], Iterator[str]]) -> None:
    """Create the tables in a transaction, unless they are there.

    :param statements: splits a script.
    """
    if not has_rollup(db):
        for statement in statements(_SCHEMA):
            db.execute(statement)


def take_in(db: sqlite3.Connection, limit: int = BATCH) -> int:
    """Make rows of the oldest records that have none, in a transaction; what cannot be read is passed over.

    :return: the number of records; 0: all have been taken in.
    """
    (taken,) = db.execute("SELECT taken FROM rollup").fetchone()
    with closing(db.execute("SELECT seq, timestamp_ms, kind, body FROM record WHERE seq > ? ORDER BY seq LIMIT ?",
                            (taken, limit))) as cursor:  # fmt: skip
        records = cursor.fetchall()
    if not records:
        return 0
    lines = _Lines(db)
    requests: list[tuple[Any, ...]] = []
    pairs: list[tuple[Any, ...]] = []
    for seq, timestamp_ms, kind, body in records:
        try:
            values = json.loads(body)
            model = str(values["model"]), str(values["version"]), _number(values["alpha"])
            common = (
                int(timestamp_ms / DAY_MS), seq, timestamp_ms, lines.find(*model, None),
                lines.find(*model, str(values.get("slice") or "")), _key(same_text(str(values["query"]))),
            )  # fmt: skip
            if kind == "request":
                requests.append((*common, *_request(values)))
            else:
                pairs.append((*common, *_pair(values)))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            continue
    db.executemany(f"INSERT OR REPLACE INTO request_row VALUES ({', '.join('?' * 11)})", requests)
    db.executemany(f"INSERT OR REPLACE INTO pair_row VALUES ({', '.join('?' * 11)})", pairs)
    days = {row[0] for row in requests} | {row[0] for row in pairs}
    db.executemany("INSERT OR IGNORE INTO day_changed VALUES (?)", [(day,) for day in days])
    db.execute("UPDATE rollup SET taken = ?", (records[-1][0],))
    return len(records)


def close_day(db: sqlite3.Connection, before: int) -> None:
    """Add up the day before one, in a transaction, unless it was; so readers find most past days done.

    A day that has changed since, as one does whose records are evicted, is left to readers: a writer must not add it up
    with every commit.

    :param before: number of a day since 1970.
    """
    (never,) = db.execute(
        "SELECT EXISTS (SELECT 1 FROM day_changed WHERE day = :day)"
        " AND NOT EXISTS (SELECT 1 FROM day_total WHERE day = :day)",
        {"day": before - 1},
    ).fetchone()
    if never:
        add_up_day(db, before - 1)


class _Lines:
    """Lines by what they stand for; unknown ones are added."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        rows = db.execute("SELECT model, version, alpha, slice, id FROM line")
        self._known: dict[tuple[str, str, float, str | None], int] = {row[:4]: row[4] for row in rows}

    def find(self, model: str, version: str, alpha: float, slice_name: str | None) -> int:
        key = model, version, alpha, slice_name
        if key not in self._known:
            added = self._db.execute("INSERT INTO line (model, version, alpha, slice) VALUES (?, ?, ?, ?)", key)
            self._known[key] = added.lastrowid or 0
        return self._known[key]


def _key(text: str) -> int:
    return hash_int(text.encode("utf-8", "surrogatepass"), purpose=b"darl-rollup") - 2**63  # SQLite's are signed


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _request(values: dict[str, Any]) -> tuple[Any, ...]:
    distance = values.get("max_ood_distance")
    return (
        int(values.get("reranked") is not False), int(values["candidates"]), int(values["ood_pairs"]),
        None if distance is None else _number(distance), _number(values["latency_ms"]),
    )  # fmt: skip


def _pair(values: dict[str, Any]) -> tuple[Any, ...]:
    item = values.get("item_id") or values.get("item_text") or values.get("item_text_hash")
    return (
        None if not item else _key(str(item)), int(values["grade"]), int(bool(values["is_ood"])),
        _number(values["weight"]), _number(values["ood_distance"]),
    )  # fmt: skip


def lines_by_id(db: sqlite3.Connection, slices: bool) -> dict[int, TrafficLine]:
    """Read the lines of single slices, or of all traffic, by id."""
    rows = db.execute(f"SELECT * FROM line WHERE slice IS {'NOT ' if slices else ''}NULL")
    return {row[0]: TrafficLine(*row) for row in rows}


def add_up_day(db: sqlite3.Connection, day: int) -> None:
    """Add up a day anew, in a transaction."""
    start = day * DAY_MS
    for table in ("day_total", "day_grade", "day_changed"):
        db.execute(f"DELETE FROM {table} WHERE day = ?", (day,))
    for level in ("whole", "line"):
        for total in add_up(db, DAY_MS, start, start + DAY_MS, level, lines_by_id(db, level == "line")):
            sums = total.sums
            db.execute(
                f"INSERT INTO day_total VALUES ({', '.join('?' * 15)})",
                (
                    day, total.line.id, total.requests, total.not_reranked, total.queries, total.pairs, total.ood,
                    sums.clusters, sums.hits, sums.totals, sums.hits_squared, sums.products, sums.totals_squared,
                    total.p50, total.p95,
                ),
            )  # fmt: skip
            grades = [(day, total.line.id, grade, weight) for grade, weight in total.grades]
            db.executemany("INSERT INTO day_grade VALUES (?, ?, ?, ?)", grades)


def add_up(
    db: sqlite3.Connection, unit_ms: int, since_ms: int, until_ms: int, level: str, lines: dict[int, TrafficLine]
) -> list[Total]:
    """Add up from the rows.

    :param level: ``whole``, or ``line`` for single slices.
    :param lines: of that level.
    :return: by start, then line.
    """
    within = "day >= ? AND day <= ? AND timestamp_ms >= ? AND timestamp_ms < ?"
    bounds = since_ms // DAY_MS, until_ms // DAY_MS, since_ms, until_ms
    span = f"timestamp_ms / {unit_ms}"
    asked = {
        (start, line): row
        for start, line, *row in db.execute(
            f"""
            WITH asked AS (
              SELECT {span} AS start, {level} AS line, query, count(*) AS n, sum(ood) AS o, sum(candidates) AS c
              FROM request_row WHERE {within} AND reranked GROUP BY 1, 2, 3)
            SELECT start, line, sum(n), count(*), sum(c), sum(o), sum(c > 0), sum(1.0 * o / n), sum(1.0 * c / n),
              sum(1.0 * o / n * o / n), sum(1.0 * o / n * c / n), sum(1.0 * c / n * c / n)
            FROM asked GROUP BY 1, 2""",
            bounds,
        )
    }
    failed = {
        (start, line): count
        for start, line, count in db.execute(
            f"SELECT {span}, {level}, count(*) FROM request_row WHERE {within} AND NOT reranked GROUP BY 1, 2", bounds
        )
    }
    latencies: dict[tuple[int, int], list[float]] = {}
    ranked = f"""
        SELECT start, line, latency FROM (
          SELECT {span} AS start, {level} AS line, latency,
            row_number() OVER (PARTITION BY {span}, {level} ORDER BY latency) AS place,
            count(*) OVER (PARTITION BY {span}, {level}) AS n
          FROM request_row WHERE {within} AND reranked)
        WHERE place = n / 2 + 1 OR place = n * 95 / 100 + 1 ORDER BY latency"""
    for start, line, latency in db.execute(ranked, bounds):
        latencies.setdefault((start, line), []).append(latency)
    found = []
    for key in sorted(set(asked) | set(failed)):
        requests, queries, pairs, ood, clusters, *moments = asked.get(key, (0,) * 10)
        times = latencies.get(key, [None])
        found.append(
            total_of(
                lines[key[1]], key[0] * unit_ms,
                (requests, failed.get(key, 0), queries, pairs, ood, clusters, *moments, times[0], times[-1]),
            )
        )  # fmt: skip
    grades = db.execute(
        f"SELECT {span}, {level}, grade, sum(weight) FROM pair_row WHERE {within} GROUP BY 1, 2, 3 ORDER BY 3", bounds
    )
    return with_grades(found, ((start * unit_ms, line, g, w) for start, line, g, w in grades))


def total_of(line: TrafficLine, start_ms: int, row: Sequence[Any]) -> Total:
    """Make totals of the columns of ``day_total`` after day and line."""
    requests, not_reranked, queries, pairs, ood, clusters, *moments, p50, p95 = row
    sums = ClusterSums(clusters, *moments)
    return Total(start_ms, line, requests, not_reranked, queries, pairs, ood, sums, p50, p95)


def with_grades(totals: Sequence[Total], grades: Iterator[tuple[int, int, int, float]]) -> list[Total]:
    """Add grades: start in ms, line, grade and weight, by grade."""
    by_key: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for start_ms, line, grade, weight in grades:
        by_key.setdefault((start_ms, line), []).append((grade, weight))
    return [replace(total, grades=tuple(by_key.get((total.start_ms, total.line.id), ()))) for total in totals]
