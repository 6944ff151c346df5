"""Reading a spool's roll-ups: totals over time, and what was strange in a span."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from darl_opensearch.ood.record import to_ms
from darl_opensearch.ood.rows import (
    BATCH,
    DAY_MS,
    Total,
    TrafficLine,
    add_up,
    add_up_day,
    lines_by_id,
    take_in,
    total_of,
    with_grades,
)
from darl_opensearch.ood.spool import Row, Spool
from darl_opensearch.ood.store import OodStore


@dataclass(frozen=True)
class Tally:
    """A query, or an item, with its OOD pairs in a span.

    :param count: requests of a query; pairs of an item, estimated from those logged.
    :param share_ood: of its pairs.
    :param ood_pairs: that were logged.
    :param distance: the highest; None if there is none.
    :param body: its latest record, as JSON values.
    :param mean_share: of a query, its share OOD on average over its requests.
    """

    count: float
    share_ood: float
    ood_pairs: int
    distance: float | None
    body: dict[str, Any]
    mean_share: float = 0.0


class Rollup:
    """The roll-ups of a spool, for reading."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def update(self, report: Callable[[str, int, int], object] = lambda what, done, total: None) -> None:
        """Take in records that an earlier version wrote, and add up days that have changed.

        :param report: called with the activity, and done and total records or days.
        """
        done = 0
        while True:
            with self._spool.writing() as db:
                done += (took := take_in(db))
                newest = db.execute("SELECT max(seq) FROM record").fetchone()[0] or 0
                left = newest - db.execute("SELECT taken FROM rollup").fetchone()[0] if took else 0
            if not took:
                break
            report("records", done, done + max(left, 0))
        with self._spool.reading() as db:
            days = [day for (day,) in db.execute("SELECT day FROM day_changed ORDER BY day")]
        for place, day in enumerate(days):
            with self._spool.writing() as db:
                add_up_day(db, day)
            report("days", place + 1, len(days))

    def span_ms(self) -> tuple[int, int] | None:
        """Return the times of the first and the last request in ms since 1970; None without any."""
        with self._spool.reading() as db:
            days = db.execute("SELECT min(day), max(day) FROM day_total WHERE requests OR not_reranked").fetchone()
            if days[0] is None:
                return None
            ends = [
                db.execute(f"SELECT {end}(timestamp_ms) FROM request_row WHERE day = ?", (day,)).fetchone()[0]
                for end, day in zip(("min", "max"), days, strict=True)
            ]
        return ends[0], ends[1]

    def totals(self, unit_ms: int, since_ms: int, until_ms: int, *, slices: bool = False) -> list[Total]:
        """Add up by span and line; whole days come from their totals.

        :param unit_ms: length of a span; spans begin at its multiples.
        :param since_ms: earliest time, included; its span is not complete unless it is a multiple.
        :param until_ms: latest time, excluded.
        :param slices: lines of single slices; else of all traffic.
        :return: by start, then line.
        """
        level = "line" if slices else "whole"
        middle = -(-since_ms // DAY_MS) * DAY_MS, until_ms // DAY_MS * DAY_MS
        with self._spool.reading() as db:
            lines = lines_by_id(db, slices)
            if unit_ms != DAY_MS or middle[0] >= middle[1]:
                return add_up(db, unit_ms, since_ms, until_ms, level, lines)
            return [
                *(add_up(db, unit_ms, since_ms, middle[0], level, lines) if since_ms < middle[0] else ()),
                *_days(db, middle[0] // DAY_MS, middle[1] // DAY_MS, lines),
                *(add_up(db, unit_ms, middle[1], until_ms, level, lines) if middle[1] < until_ms else ()),
            ]

    def queries(
        self, line: TrafficLine, since_ms: int, until_ms: int, top: int, *, most_pairs: bool = False
    ) -> list[Tally]:
        """Find the queries with OOD pairs: by share OOD, then by distance, highest first.

        :param most_pairs: by the number of OOD pairs instead.
        """
        column, bounds = _bounds(line, since_ms, until_ms)
        order = "pairs DESC" if most_pairs else "share DESC, far DESC"
        sql = f"""
            SELECT count(*), 1.0 * sum(ood) / sum(candidates) AS share, sum(ood) AS pairs, max(distance) AS far,
              max(seq), avg(1.0 * ood / nullif(candidates, 0))
            FROM request_row WHERE {column} AND reranked GROUP BY query HAVING sum(ood) > 0
            ORDER BY {order}, query LIMIT ?"""
        return self._tallies(sql, (*bounds, top))

    def count_flagged(self, line: TrafficLine, since_ms: int, until_ms: int, least_share: float) -> tuple[int, int]:
        """Count the queries with at least a share of their pairs OOD, on average over their requests.

        :return: their number, and that of their requests.
        """
        column, bounds = _bounds(line, since_ms, until_ms)
        sql = f"""
            SELECT count(*), coalesce(sum(n), 0) FROM (
              SELECT count(*) AS n FROM request_row WHERE {column} AND reranked AND candidates > 0
              GROUP BY query HAVING avg(1.0 * ood / candidates) >= ?)"""
        with self._spool.reading() as db:
            queries, requests = db.execute(sql, (*bounds, least_share)).fetchone()
        return queries, requests

    def usual_queries(self, line: TrafficLine, since_ms: int, until_ms: int, most: int) -> list[str]:
        """Draw queries whose share OOD is at most alpha, in an order that does not depend on their text."""
        column, bounds = _bounds(line, since_ms, until_ms)
        sql = f"""
            SELECT max(seq) FROM request_row WHERE {column} AND reranked
            GROUP BY query HAVING sum(ood) <= ? * sum(candidates) ORDER BY query LIMIT ?"""
        with self._spool.reading() as db:
            found = [self._body(db, seq) for (seq,) in db.execute(sql, (*bounds, line.alpha, most)).fetchall()]
        return [str(body["query"]) for body in found]

    def items(self, line: TrafficLine, since_ms: int, until_ms: int, top: int) -> list[Tally]:
        """Find the items with OOD pairs: by their number, then by distance, highest first."""
        column, bounds = _bounds(line, since_ms, until_ms)
        sql = f"""
            SELECT sum(weight), sum(weight * ood) / sum(weight), sum(ood), max(distance) AS far, max(seq), 0.0
            FROM pair_row WHERE {column} AND item IS NOT NULL GROUP BY item HAVING sum(ood) > 0
            ORDER BY sum(ood) DESC, far DESC, item LIMIT ?"""
        return self._tallies(sql, (*bounds, top))

    def _tallies(self, sql: str, values: Sequence[object]) -> list[Tally]:
        found = []
        with self._spool.reading() as db:
            for count, share, pairs, distance, seq, mean in db.execute(sql, values).fetchall():
                found.append(Tally(count, share, pairs, distance, self._body(db, seq), mean))
        return found

    @staticmethod
    def _body(db: sqlite3.Connection, seq: int) -> dict[str, Any]:
        (body,) = db.execute("SELECT body FROM record WHERE seq = ?", (seq,)).fetchone()
        values: dict[str, Any] = json.loads(body)
        return values


def copy_to_spool(
    store: OodStore, path: Path, *, since: datetime | None, until: datetime,
    report: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> None:  # fmt: skip
    """Copy the records of a period to a new spool, which adds them up.

    :param report: called with the activity, the records done and the total (0: unknown).
    """
    done = 0
    with Spool.open(path, create=True) as spool:
        requests = store.requests(since=since, until=until, not_reranked=True)
        records = chain(requests, store.pairs(since=since, until=until))
        while batch := list(islice(records, BATCH)):
            texts = [json.dumps(record.to_json(), ensure_ascii=False) for record in batch]
            rows = [Row(r.record_id, to_ms(r.timestamp), r.kind, text) for r, text in zip(batch, texts, strict=True)]
            spool.append(rows)
            done += len(rows)
            report("records", done, 0)


def _days(db: sqlite3.Connection, first: int, end: int, lines: Mapping[int, TrafficLine]) -> list[Total]:
    """Read totals of whole days."""
    rows = db.execute("SELECT * FROM day_total WHERE day >= ? AND day < ? ORDER BY day, line", (first, end))
    found = [total_of(lines[row[1]], row[0] * DAY_MS, row[2:]) for row in rows if row[1] in lines]
    grades = db.execute("SELECT * FROM day_grade WHERE day >= ? AND day < ? ORDER BY grade", (first, end))
    return with_grades(found, ((day * DAY_MS, line, grade, weight) for day, line, grade, weight in grades))


def _bounds(line: TrafficLine, since_ms: int, until_ms: int) -> tuple[str, tuple[int, ...]]:
    """Select the rows of a line in a span."""
    column = "whole" if line.slice is None else "line"
    sql = f"day >= ? AND day <= ? AND timestamp_ms >= ? AND timestamp_ms < ? AND {column} = ?"
    return sql, (since_ms // DAY_MS, until_ms // DAY_MS, since_ms, until_ms, line.id)
