"""Temporary store of an import: SQLite in a scratch file, so that no table has to fit in memory."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.sqlite import open_scratch
from darl_opensearch.records.lines import DataLine, changed_query, two_grades
from darl_opensearch.records.values import like_known, parse_query, unknown_item
from darl_opensearch.stats.numbers import replace_nan
from darl_opensearch.text import ItemTemplate, NoTextError

ITEMS, JUDGMENTS = "items.jsonl", "judgments.jsonl"
REPEATS = ("refuse", "first", "highest", "lowest")
MISSING = ("refuse", "drop")
# Columns in which judging tools write one rater's rating or remark, such as Quepid's books.
_OF_A_RATER = re.compile(
    r"(^|[\W_])(rating|grade|judge?ment|score|label|rater|judge|assessor|annotator|explanation|rationale|rank|position)s?"
    r"(\b|_|$)", re.IGNORECASE,
)  # fmt: skip
SCHEMA = """
CREATE TABLE item (n INTEGER PRIMARY KEY, id TEXT UNIQUE, line TEXT, at TEXT);
CREATE TABLE query (n INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT, at TEXT);
CREATE TABLE judgment (n INTEGER PRIMARY KEY, query INTEGER, item TEXT, grade INTEGER, slice TEXT, extra TEXT, at TEXT,
    UNIQUE (query, item));
CREATE TABLE written (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""


@dataclass
class ImportCounts:
    """Counts of what an import read and wrote.

    :param grades: judgments written per grade, lowest first.
    :param repeated_items: exact repeats.
    :param repeated_judgments: further judgments of a judged pair.
    :param dropped_items: items without any of the template's fields.
    :param dropped_judgments: judgments of missing items.
    """

    items: int = 0
    queries: int = 0
    judgments: int = 0
    grades: list[int] = field(default_factory=list)
    repeated_items: int = 0
    repeated_judgments: int = 0
    dropped_items: int = 0
    dropped_judgments: int = 0


class Gathering:
    """Collects items and judgments and writes them in our format. Use it in a ``with`` statement.

    :param repeats: what to do with a pair that has two grades: one of :data:`REPEATS`.
    :param missing: what to do with judgments of missing items, and items without text: one of :data:`MISSING`.
    """

    def __init__(self, path: Path, *, repeats: str = "refuse", missing: str = "refuse") -> None:
        self.counts = ImportCounts()
        self.repeats, self.missing = repeats, missing
        self._db = open_scratch(path, cache_kib=64 << 10)
        self._db.executescript(SCHEMA)
        self._query: tuple[str, str, int] | None = None

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self._db.close()

    def item(self, where: str, item_id: str, fields: Mapping[str, Any]) -> None:
        """Add an item; exact repeats are counted and skipped.

        :raises InputError: if a different item has this id.
        """
        line = _json({"id": item_id} | _drop_empty(fields))
        if self._db.execute("INSERT OR IGNORE INTO item (id, line, at) VALUES (?, ?, ?)",
                            (item_id, line, where)).rowcount:  # fmt: skip
            return
        before, at = self._db.execute("SELECT line, at FROM item WHERE id = ?", (item_id,)).fetchone()
        if before != line:
            raise _changed_item(item_id, json.loads(before), json.loads(line), at, where)
        self.counts.repeated_items += 1

    def judge(
        self,
        where: str,
        query_id: str,
        query: str,
        item_id: str,
        grade: int,
        *,
        slice: str = "",
        extra: Mapping[str, Any] | None = None,
        repeats: str = "",
    ) -> None:
        """Add a judgment.

        :param query_id: empty: the query's text.
        :param repeats: rule for a pair with two grades; empty: the store's.
        :raises InputError: for an empty or far too long query, a query id with two texts, or a pair with two grades.
        """
        number = self._number_of(where, query_id, query)
        values = (number, item_id, grade, slice, _json(_drop_empty(extra)) if extra else "", where)
        insert = "INSERT OR IGNORE INTO judgment (query, item, grade, slice, extra, at) VALUES (?, ?, ?, ?, ?, ?)"
        if self._db.execute(insert, values).rowcount:
            return
        self.counts.repeated_judgments += 1
        before, at = self._db.execute(
            "SELECT grade, at FROM judgment WHERE query = ? AND item = ?", (number, item_id)
        ).fetchone()
        rule = repeats or self.repeats
        if before == grade or rule == "first":
            return
        if rule == "refuse":
            todo = "keep one grade per pair, or choose one with --repeats first, highest or lowest"
            raise two_grades(DataLine(where, query, query_id, item_id, grade), before, at, todo=todo)
        if (grade > before) == (rule == "highest"):
            self._db.execute(
                "UPDATE judgment SET grade = ?, slice = ?, extra = ?, at = ? WHERE query = ? AND item = ?",
                (grade, slice, values[4], where, number, item_id),
            )

    def sql(self, statement: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run SQL on an importer's own tables.

        :param statement: must leave the tables ``item``, ``query``, ``judgment`` and ``written`` alone.
        """
        return self._db.execute(statement, tuple(values))

    def highest_grade(self) -> int:
        """Return the highest grade so far."""
        return int(self._db.execute("SELECT ifnull(max(grade), 0) FROM judgment").fetchone()[0])

    def lowest_grade(self) -> int:
        """Return the lowest grade so far."""
        return int(self._db.execute("SELECT ifnull(min(grade), 0) FROM judgment").fetchone()[0])

    def judgments(self) -> Iterator[tuple[str, str, int]]:
        """Yield query text, item id and grade of each judgment."""
        yield from self._db.execute("SELECT q.text, j.item, j.grade FROM judgment j JOIN query q ON q.n = j.query")

    def sample(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the fields of the first items, ``id`` included.

        :param count: -1: of all items.
        """
        for (line,) in self._db.execute("SELECT line FROM item ORDER BY n LIMIT ?", (count,)):
            yield json.loads(line)

    def write(
        self,
        folder: Path | None,
        template: ItemTemplate,
        *,
        judged_only: bool,
        k: int,
        passed_over: Mapping[str, int] | None = None,
    ) -> ImportCounts:
        """Write ``items.jsonl`` and ``judgments.jsonl``.

        :param folder: existing folder; None: check and count only.
        :param template: renders items; those without text are refused or dropped.
        :param passed_over: the importer's counts of skipped rows, for the error if no judgment is left.
        :raises InputError: for a missing judged item, or no judgments.
        """
        with _lines(folder, ITEMS) as write:
            for line in self._writable_items(template, judged_only=judged_only):
                write(line)
        self._check_missing()
        self.counts.grades = [0] * k
        with _lines(folder, JUDGMENTS) as write:
            for row in self.rows("JOIN written w ON w.id = j.item"):
                write(json.dumps(row, ensure_ascii=False))
        if not self.counts.judgments:
            counts = dict(passed_over or {}) | {"dropped_judgments": self.counts.dropped_judgments}
            passed = ", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in counts.items() if n)
            what = "no judgments left to write" + (f" ({passed})" if passed else "")
            raise InputError(
                what, todo=self._why_none() or "check that the files belong together, and what --set filters"
            )
        return self.counts

    def rows(self, join: str = "") -> Iterator[dict[str, Any]]:
        """Yield the judgments as rows of our format, by query, and count them.

        :param join: SQL that leaves out judgments of items that are not written.
        """
        self.counts.grades = self.counts.grades or [0] * (self.highest_grade() + 1)
        last = None
        for query_id, query, item_id, grade, slice_, extra in self._db.execute(
            "SELECT q.id, q.text, j.item, j.grade, j.slice, j.extra FROM judgment j JOIN query q ON q.n = j.query "
            f"{join} ORDER BY j.query, j.n"
        ):
            row = {"query_id": query_id, "query": query, "item_id": item_id, "grade": grade}
            row |= {"slice": slice_} if slice_ else {}
            self.counts.judgments += 1
            self.counts.grades[grade] += 1
            self.counts.queries += query_id != last
            last = query_id
            yield row | (json.loads(extra) if extra else {})

    def _why_none(self) -> str:
        """Say what distinguishes the judgments' item ids from those of the items, or ``""``."""
        row = self._db.execute("SELECT item FROM judgment WHERE item NOT IN (SELECT id FROM item) LIMIT 1").fetchone()
        return like_known(row[0], _Column(self._db, "SELECT 1 FROM item WHERE id = ?")) if row else ""

    def _writable_items(self, template: ItemTemplate, *, judged_only: bool) -> Iterator[str]:
        wanted = "WHERE id IN (SELECT item FROM judgment)" if judged_only else ""
        for item_id, line, at in self._db.execute(
            f"SELECT id, line, at FROM item {wanted} ORDER BY n"
        ):  # two constants
            try:
                template.render(json.loads(line), where=at)
            except NoTextError as err:
                if self.missing == "refuse":
                    raise InputError(
                        err.what, where=err.where, todo=f"{err.todo}, or drop such items with --missing drop"
                    ) from err
                self.counts.dropped_items += 1
                continue
            self._db.execute("INSERT INTO written VALUES (?)", (item_id,))
            self.counts.items += 1
            yield line

    def _check_missing(self) -> None:
        absent = "FROM judgment WHERE item NOT IN (SELECT id FROM written)"
        self.counts.dropped_judgments = int(self._db.execute(f"SELECT count(*) {absent}").fetchone()[0])
        if self.counts.dropped_judgments and self.missing == "refuse":
            item_id, at = self._db.execute(f"SELECT item, at {absent} ORDER BY n LIMIT 1").fetchone()
            lost, all_ = self.counts.dropped_judgments, self._db.execute("SELECT count(*) FROM judgment").fetchone()[0]
            todo = f"add it to the items, or drop such judgments with --missing drop: {lost:,} of {all_:,} have no item"
            raise unknown_item(item_id, at, todo=todo, known=_Column(self._db, "SELECT 1 FROM item WHERE id = ?"))

    def _number_of(self, where: str, query_id: str, query: str) -> int:
        query = parse_query({"query": query}, where)
        query_id = query_id or query
        if self._query is not None and self._query[:2] == (query_id, query):
            return self._query[2]
        self._db.execute("INSERT OR IGNORE INTO query (id, text, at) VALUES (?, ?, ?)", (query_id, query, where))
        number, text, at = self._db.execute("SELECT n, text, at FROM query WHERE id = ?", (query_id,)).fetchone()
        if text != query:
            raise changed_query(DataLine(where, query, query_id), text, first=at)
        self._query = (query_id, query, int(number))
        return int(number)


class _Column:
    """Values of a column, as a container.

    :param statement: returns a row for a value that is there.
    """

    def __init__(self, db: sqlite3.Connection, statement: str) -> None:
        self._db, self._statement = db, statement

    def __contains__(self, value: object) -> bool:
        return self._db.execute(self._statement, (value,)).fetchone() is not None


def _changed_item(
    item_id: str, before: Mapping[str, Any], now: Mapping[str, Any], first: str, where: str
) -> InputError:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    name = names[0]
    others = f", and so do {', '.join(map(repr, names[1:6]))}" if names[1:] else ""
    what = f"item {short(item_id)} appears twice: field {name!r} is {short(now.get(name))} here, but was "
    todo = "keep one of the two"
    if all(_OF_A_RATER.search(name) for name in names):
        raters = ",".join(name for name in {**before, **now} if _OF_A_RATER.search(name))
        todo = f"this looks like a part of the judgment: pass --drop-columns {raters}"
    elif len(names) < len({**before, **now}) - 1:
        todo += f", or leave out what belongs to the judgment with --drop-columns {','.join(names[:6])}"
    return InputError(f"{what}{short(before.get(name))} (first: {first}){others}", where=where, todo=todo)


def _drop_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in fields.items()
        if name != "id" and value not in (None, "", []) and not (isinstance(value, float) and not math.isfinite(value))
    }


def _json(value: Mapping[str, Any]) -> str:
    """Render as JSON, with null for nan, which nested Parquet values may contain."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(replace_nan(value), ensure_ascii=False, default=str, allow_nan=False)


@contextlib.contextmanager
def _lines(folder: Path | None, name: str) -> Iterator[Callable[[str], object]]:
    """Write lines to a file in a folder, or nowhere without a folder."""
    if folder is None:
        yield lambda line: None
        return
    with (folder / name).open("w", encoding="utf-8") as file:
        yield lambda line: file.write(line + "\n")
