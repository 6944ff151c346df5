"""The log gathered by query, in SQLite, so that a million queries need little memory and a killed run resumes.

Records arrive by time and id and are committed with the reading position, so none is counted twice.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.io.sqlite import open_exclusive
from darl_opensearch.ood.record import PairRecord, Record, RequestRecord, text_hash, to_ms
from darl_opensearch.ood.store import OodStore
from darl_opensearch.text import same_text
from trainer.dasa.mix import Listed
from trainer.dasa.noise import is_even

BATCH = 5000
MOST_RECORDS = 20  # record ids kept per pair: it may have been shown a million times

BUSY_SECONDS = 1.0  # maximum wait for another process
_SCHEMA = """
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS query (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS request (
  query INTEGER NOT NULL, ms INTEGER NOT NULL, slice TEXT NOT NULL, query_id TEXT NOT NULL, ood_share REAL
);
CREATE TABLE IF NOT EXISTS item (hash TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pair (
  query INTEGER NOT NULL, item TEXT NOT NULL, hash TEXT NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL,
  records TEXT NOT NULL, PRIMARY KEY (query, item)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS candidate (
  place INTEGER PRIMARY KEY, query INTEGER NOT NULL, flagged INTEGER NOT NULL, items TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Queries:
    """Distinct queries of the log, ordered by their normalised text.

    :param ids: ``[n]``, query ids in the work file.
    :param keys: texts normalised by :func:`darl_opensearch.text.same_text`.
    :param ood_share: ``[n]`` mean share of OOD items over the requests that this model ranked; NaN without any.
    :param per_minute: ``[n]`` maximum requests in one minute.
    :param even: ``[n]`` whether the requests are evenly spaced.
    :param slices: most frequent slice of each query.
    """

    ids: NDArray[np.int64]
    keys: list[str]
    requests: NDArray[np.int64]
    ood_share: NDArray[np.float64]
    per_minute: NDArray[np.int64]
    even: NDArray[np.bool_]
    slices: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.ids)  # a dictionary of a million ids would be ten times as large

    def rows(self, ids: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Look up the rows of ids, as an array of their shape."""
        rows: NDArray[np.int64] = self._order[np.searchsorted(self.ids, ids, sorter=self._order)]
        return rows


class GatheredLog:
    """A work file.

    :param digest: digest of all inputs; a file with another digest is replaced.
    """

    def __init__(self, path: Path, digest: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = _open(path)
        try:
            if self.mark("digest") not in (None, digest):
                self._db.close()
                path.unlink()
                self._db = _open(path)
            self._db.execute("PRAGMA synchronous = OFF")  # a system crash may lose the file, but a killed run resumes
            self.set_mark("digest", digest)
            self._db.commit()
        except sqlite3.DatabaseError as err:
            self._db.close()
            raise _refused(path, err) from err
        self._path = path

    def __enter__(self) -> GatheredLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise _refused(self._path, error) from error

    def mark(self, name: str) -> str | None:
        """Read the progress mark of a step, or None."""
        row = self._db.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_mark(self, name: str, value: str) -> None:
        """Write the progress mark of a step, in the open transaction."""
        self._db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (name, value))

    def gather(
        self, store: OodStore, *, since: datetime | None, until: datetime | None, model: tuple[str, str], depth: int,
        machine_ids: Sequence[str] = (), report: Any = lambda what, done, total: None,
    ) -> None:  # fmt: skip
        """Read the log, resuming where the last attempt stopped.

        :param since: earliest time, included.
        :param until: latest time, excluded.
        :param model: name and version of the bundle; scores of other models are ignored.
        :param depth: first-stage positions to read.
        :param machine_ids: request-id prefixes to leave out.
        """
        machines = tuple(machine_ids)
        for kind, read in (("requests", store.requests), ("pairs", store.pairs)):
            after = self.mark(f"after {kind}")
            if after == "end":
                continue
            ms, _, last = (after or "").partition(" ")
            done, machine = (int(self.mark(f"{name} {kind}") or 0) for name in ("read", "machine"))
            start = datetime.fromtimestamp(int(ms) / 1000, UTC) if ms else since
            records: Iterator[Record] = iter(read(since=start, until=until))
            fresh = (r for r in records if not ms or (to_ms(r.timestamp), r.record_id) > (int(ms), last))
            while batch := list(itertools.islice(fresh, BATCH)):
                counted = [record for record in batch if not (machines and record.request_id.startswith(machines))]
                self._write(counted, model, depth)
                done, machine = done + len(batch), machine + len(batch) - len(counted)
                self.set_mark(f"after {kind}", f"{to_ms(batch[-1].timestamp)} {batch[-1].record_id}")
                self.set_mark(f"read {kind}", str(done))
                self.set_mark(f"machine {kind}", str(machine))
                self._db.commit()
                report(f"reading {kind}", done, 0)
            self.set_mark(f"after {kind}", "end")
            self._db.commit()
        self._db.execute("CREATE INDEX IF NOT EXISTS request_query ON request (query, ms)")
        self._db.commit()

    def counts(self) -> dict[str, int]:
        """Count the ``requests`` and ``pairs`` read, and the ``machine_requests`` left out."""
        names = {"requests": "read requests", "pairs": "read pairs", "machine_requests": "machine requests"}
        return {name: int(self.mark(mark) or 0) for name, mark in names.items()}

    def queries(self) -> Queries:
        """Aggregate the requests of each query."""
        n = self._db.execute("SELECT COUNT(DISTINCT query) FROM request").fetchone()[0]
        ids, requests, per_minute = np.zeros((3, n), dtype=np.int64)
        share, even = np.full(n, np.nan), np.zeros(n, dtype=np.bool_)
        keys: list[str] = []
        for place, (number, key, count, mean) in enumerate(
            self._db.execute(
                "SELECT q.id, q.key, COUNT(*), AVG(r.ood_share) FROM query q JOIN request r ON r.query = q.id "
                "GROUP BY q.id ORDER BY q.key"
            )
        ):
            ids[place], requests[place] = number, count
            share[place] = np.nan if mean is None else mean
            keys.append(key)
        place_of = np.full(int(ids.max(initial=0)) + 1, -1, dtype=np.int64)
        place_of[ids] = np.arange(n)
        for number, count in self._db.execute(
            "SELECT query, MAX(c) FROM ("
            "SELECT query, COUNT(*) c FROM request GROUP BY query, ms / 60000) GROUP BY query"
        ):
            per_minute[place_of[number]] = count
        for number, count, mean, square in self._db.execute(
            "SELECT query, COUNT(g), AVG(g), AVG(1.0 * g * g) FROM ("
            "SELECT query, ms - LAG(ms) OVER (PARTITION BY query ORDER BY ms) g FROM request) "
            "WHERE g IS NOT NULL GROUP BY query"
        ):
            even[place_of[number]] = is_even(count, mean, square)
        slices = [""] * n
        for number, name, _ in self._db.execute(
            "SELECT query, slice, MAX(c) FROM ("
            "SELECT query, slice, COUNT(*) c FROM request GROUP BY query, slice ORDER BY slice DESC) GROUP BY query"
        ):
            slices[place_of[number]] = name
        return Queries(ids, keys, requests, share, per_minute, even, slices)

    def query_ids(self, numbers: Sequence[int]) -> dict[int, str]:
        """Look up the ids that clients gave queries; only ids that map to one text, and back, count."""
        names = {}
        for number in numbers:
            rows = self._db.execute(
                "SELECT DISTINCT query_id FROM request WHERE query = ? AND query_id <> '' LIMIT 2", (number,)
            ).fetchall()
            if len(rows) == 1:
                names[number] = str(rows[0][0])
        if names:
            self._db.execute("CREATE INDEX IF NOT EXISTS request_query_id ON request (query_id, query)")
        shared = "SELECT 1 FROM request WHERE query_id = ? AND query <> ? LIMIT 1"
        return {n: name for n, name in names.items() if self._db.execute(shared, (name, n)).fetchone() is None}

    def text(self, number: int) -> str:
        """Read a query's text as first logged."""
        return str(self._db.execute("SELECT text FROM query WHERE id = ?", (number,)).fetchone()[0])

    def listed(self, number: int, depth: int) -> list[Listed]:
        """Read a query's logged items, at most ``depth`` in first-stage order; texts not in the log are empty."""
        rows = self._db.execute(
            "SELECT p.item, COALESCE(i.text, ''), p.body, p.records FROM pair p LEFT JOIN item i ON i.hash = p.hash "
            "WHERE p.query = ? ORDER BY p.position, p.item LIMIT ?",
            (number, depth),
        )
        items = []
        for item, text, body, records in rows:
            listed = Listed(item, text, records=tuple(records.split()))
            if values := json.loads(body):
                score, probs, ood_score, distance, is_ood = values
                listed = Listed(item, text, score, tuple(probs), ood_score, distance, bool(is_ood), listed.records)
            items.append(listed)
        return items

    def put_candidates(self, place: int, lists: Sequence[tuple[int, bool, Sequence[Listed]]]) -> None:
        """Write candidates, in the open transaction."""
        rows = (
            (place + i, number, flagged, json.dumps([dataclasses.astuple(item) for item in listed], ensure_ascii=False))
            for i, (number, flagged, listed) in enumerate(lists)
        )
        self._db.executemany("INSERT OR REPLACE INTO candidate VALUES (?, ?, ?, ?)", rows)

    def candidates(self, count: int) -> Iterator[tuple[int, bool, list[Listed]]]:
        """Read the first ``count`` candidates in order; those beyond are unfinished.

        :yields: query, whether it is flagged, and items.
        """
        rows = self._db.execute("SELECT query, flagged, items FROM candidate WHERE place < ? ORDER BY place", (count,))
        for number, flagged, body in rows:
            yield int(number), bool(flagged), _listed(body)

    def candidate(self, place: int) -> tuple[int, list[Listed]]:
        """Read one candidate."""
        number, body = self._db.execute("SELECT query, items FROM candidate WHERE place = ?", (place,)).fetchone()
        return int(number), _listed(body)

    def span(self) -> tuple[int, int] | None:
        """Times of the first and the last request in milliseconds since 1970; None without requests."""
        first, last = self._db.execute("SELECT MIN(ms), MAX(ms) FROM request").fetchone()
        return None if first is None else (int(first), int(last))

    def commit(self) -> None:
        """Commit the open transaction."""
        self._db.commit()

    def _write(self, records: Iterable[Record], model: tuple[str, str], depth: int) -> None:
        for record in records:
            by_this_model = (record.model, record.version) == model
            key = same_text(record.query)
            if not key:
                continue
            if isinstance(record, RequestRecord):
                share = record.ood_share if by_this_model and record.candidates else None
                row = (to_ms(record.timestamp), record.slice or "", record.query_id or "", share)
                self._db.execute("INSERT INTO request VALUES (?, ?, ?, ?, ?)", (self._number(key, record.query), *row))
            elif record.position < depth:
                self._write_pair(record, self._number(key, record.query), by_this_model)

    def _write_pair(self, record: PairRecord, number: int, by_this_model: bool) -> None:
        digest = text_hash(record.item_text) if record.item_text else ""
        if digest:
            self._db.execute("INSERT OR IGNORE INTO item VALUES (?, ?)", (digest, record.item_text))
        # An item without an id is identified by its text.
        item = record.item_id or f"text-{(digest or record.item_text_hash or '')[:16]}"
        if item == "text-":
            return
        values: list[Any] = []
        if by_this_model:
            values = [record.score, record.grade_probs, record.ood_score, record.ood_distance, record.is_ood]
        self._db.execute(
            "INSERT INTO pair VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (query, item) DO UPDATE SET "
            "hash = CASE WHEN ?3 = '' THEN hash ELSE ?3 END, position = MIN(position, ?4), "
            "body = CASE WHEN ?5 = '[]' THEN body ELSE ?5 END, "
            "records = CASE WHEN LENGTH(records) >= ?7 THEN records ELSE records || ' ' || ?6 END",
            (number, item, digest, record.position, json.dumps(values), record.record_id, 33 * MOST_RECORDS - 1),
        )

    def _number(self, key: str, text: str) -> int:
        row = self._db.execute("SELECT id FROM query WHERE key = ?", (key,)).fetchone()
        if row is None:
            return int(self._db.execute("INSERT INTO query (key, text) VALUES (?, ?)", (key, text)).lastrowid or 0)
        return int(row[0])


def _listed(body: str) -> list[Listed]:
    return [
        Listed(item, text, score, tuple(probs), ood_score, distance, is_ood, tuple(records))
        for item, text, score, probs, ood_score, distance, is_ood, records in json.loads(body)
    ]


def _open(path: Path) -> sqlite3.Connection:
    db: sqlite3.Connection | None = None
    try:
        # Two processes that gather into one file would count requests twice.
        db = open_exclusive(path, busy_s=BUSY_SECONDS)
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError as err:
        if db is not None:
            db.close()
        raise _refused(path, err) from err
    return db


def _refused(path: Path, err: sqlite3.Error) -> DarlError:
    """Translate an error of SQLite, with advice."""
    if "locked" in str(err):
        todo = "wait for it, or choose another folder"
        return DarlError("another process is selecting into this folder", where=str(path.parent), todo=todo)
    if isinstance(err, sqlite3.OperationalError):
        todo = "check disk and permissions, then run the same command again: it resumes"
        return DarlError(f"the work file cannot be used ({err})", where=str(path), todo=todo)
    return InputError(f"not a work file ({err})", where=str(path), todo="remove it; it is rebuilt")
