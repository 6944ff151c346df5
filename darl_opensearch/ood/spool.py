"""The spool: OOD records on the local disk, made durable before anything else is done with them.

SQLite in WAL mode. A commit is the acknowledgement: committed records survive ``kill -9`` and, because every commit is
synced, a power cut. Any number of processes may open one spool on a local file system. Without a cluster the spool *is*
the store and deletes records only when it is full; with a cluster the shipper deletes acknowledged records.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.io.sqlite import open_shared, sqlite_errors, transaction
from darl_opensearch.ood.rows import DAY_MS, close_day, create_rollup, has_rollup, take_in

FORMAT = 1
DEFAULT_MAX_BYTES = 256 * 1024 * 1024
ROW_OVERHEAD_BYTES = 280  # id, time, kind, two index entries, a row of the roll-ups
_KEEP = 0.95  # share of the bound to keep on overflow, so that not every batch has to evict

# Counters over the spool's whole life. Adding one needs no migration.
COUNTERS = (
    "spooled_requests",  # requests committed
    "spooled_records",  # records committed
    "repeated",  # records skipped because their id was spooled before
    "dropped_queue",  # requests dropped because the queue in memory was full
    "dropped_error",  # requests that could not be expanded, or not written before the process ended
    "evicted",  # records deleted unsent, oldest first, to stay below the bound
    "evicted_dead_letters",  # dead letters deleted for the same reason
    "shipped",  # records accepted by the cluster
    "already_there",  # records that the cluster already had
    "dead_letters",  # records permanently rejected by the cluster
)

_SCHEMA = """
CREATE TABLE record (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  record_id TEXT NOT NULL UNIQUE,
  timestamp_ms INTEGER NOT NULL,
  kind TEXT NOT NULL,
  body TEXT NOT NULL,
  bytes INTEGER NOT NULL
);
CREATE INDEX record_by_time ON record (timestamp_ms, record_id);
CREATE TABLE dead_letter (
  seq INTEGER PRIMARY KEY,
  record_id TEXT NOT NULL,
  timestamp_ms INTEGER NOT NULL,
  kind TEXT NOT NULL,
  body TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  reason TEXT NOT NULL,
  failed_at TEXT NOT NULL
);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('stored_bytes', 0);
CREATE TRIGGER record_in AFTER INSERT ON record
  BEGIN UPDATE counter SET value = value + NEW.bytes WHERE name = 'stored_bytes'; END;
CREATE TRIGGER record_out AFTER DELETE ON record
  BEGIN UPDATE counter SET value = value - OLD.bytes WHERE name = 'stored_bytes'; END;
CREATE TRIGGER dead_letter_in AFTER INSERT ON dead_letter
  BEGIN UPDATE counter SET value = value + NEW.bytes WHERE name = 'stored_bytes'; END;
CREATE TRIGGER dead_letter_out AFTER DELETE ON dead_letter
  BEGIN UPDATE counter SET value = value - OLD.bytes WHERE name = 'stored_bytes'; END;
"""


class SpoolError(DarlError):
    """The spool cannot be read or written now: its disk is full, or another process locks it for too long."""


@dataclass(frozen=True)
class Row:
    """A record to be spooled.

    :param timestamp_ms: milliseconds since 1970.
    :param kind: ``request`` or ``pair``.
    """

    record_id: str
    timestamp_ms: int
    kind: str
    body: str

    @property
    def bytes(self) -> int:
        """Size that counts against the bound."""
        return len(self.body.encode()) + ROW_OVERHEAD_BYTES


@dataclass(frozen=True)
class Spooled:
    """A record in the spool.

    :param timestamp_ms: milliseconds since 1970.
    """

    seq: int
    record_id: str
    timestamp_ms: int
    body: str


@dataclass(frozen=True)
class DeadLetter:
    """A record that the cluster rejected permanently.

    :param reason: as the cluster gave it.
    :param failed_at: ISO 8601 time.
    """

    record_id: str
    reason: str
    failed_at: str
    body: str


@dataclass(frozen=True)
class Appended:
    """Outcome of a commit.

    :param evicted: older rows deleted to stay below the bound.
    """

    records: int
    repeated: int
    evicted: int


class Spool:
    """An open spool. Its methods may be called from any thread; each is one transaction, and raises SpoolError.

    :param max_bytes: bound on what :meth:`append` leaves stored, or None.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, max_bytes: int | None) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._connection = connection
        self._lock = threading.RLock()
        self._inode = path.stat().st_ino

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = False, max_bytes: int | None = None) -> Spool:
        """Open a spool.

        :param path: the SQLite file, on a local file system.
        :param create: create it if missing.
        :param max_bytes: bound on what :meth:`append` leaves stored; None for readers and shippers.
        :return: the spool; close it.
        :raises InputError: if it is absent, not a spool, or of another format.
        """
        file = Path(path).absolute() if str(path) == ":memory:" else Path(path)  # SQLite gives that name a meaning
        if max_bytes is not None and max_bytes < 4096:
            raise InputError(f"a spool of {max_bytes} bytes is too small", where=str(file), todo="allow 1 MB or more")
        if not file.is_file():
            if not create:
                todo = "pass the file given as --ood-log to darl serve, or as ood_log to Reranker"
                raise InputError("the spool does not exist", where=str(file), todo=todo)
            _create_private(file)
        todo = "check free space and permissions; if it is not an OOD spool, choose another file"
        with sqlite_errors("the spool cannot be used", where=file, todo=todo, kind=InputError):
            connection = open_shared(file)
            try:
                _prepare(connection, file)
            except BaseException:
                connection.close()
                raise
        return cls(file, connection, max_bytes)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; committed records stay."""
        with self._lock:
            self._connection.close()

    def is_in_place(self) -> bool:
        """Whether :attr:`path` is still the open file: SQLite would go on writing to a deleted one."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def append(self, rows: Sequence[Row], counts: Mapping[str, int] | None = None) -> Appended:
        """Commit records; once this returns they are acknowledged.

        :param rows: the records; those with an existing id are skipped.
        :param counts: added to the spool's counters in the same commit.
        """
        with self.writing() as db:
            inserted = db.executemany(
                "INSERT INTO record (record_id, timestamp_ms, kind, body, bytes) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (record_id) DO NOTHING",
                [(row.record_id, row.timestamp_ms, row.kind, row.body, row.bytes) for row in rows],
            )
            added = max(inserted.rowcount, 0)  # -1 when there were no rows
            evicted, evicted_dead = self._make_room(db) if self.max_bytes is not None else (0, 0)
            if rows:
                take_in(db)
                close_day(db, max(row.timestamp_ms for row in rows) // DAY_MS)
            repeated = len(rows) - added
            own = {"spooled_records": added, "repeated": repeated, "evicted": evicted}
            _count(db, {**(counts or {}), **own, "evicted_dead_letters": evicted_dead})
        return Appended(added, repeated, evicted)

    def take(self, *, limit: int = 1000, max_bytes: int = 4 * 1024 * 1024) -> list[Spooled]:
        """Read the oldest records; they stay until :meth:`settle`.

        :param max_bytes: stop before the bodies exceed this; one record is returned whatever its size.
        :return: the records, oldest first.
        """
        batch: list[Spooled] = []
        size = 0
        with self.reading() as db, contextlib.closing(db.cursor()) as cursor:
            cursor.execute(
                "SELECT seq, record_id, timestamp_ms, body, bytes FROM record ORDER BY seq LIMIT ?", (limit,)
            )
            for seq, identity, timestamp_ms, body, row_bytes in cursor:
                size += row_bytes
                if batch and size > max_bytes:
                    break
                batch.append(Spooled(seq, identity, timestamp_ms, body))
        return batch

    def settle(
        self,
        *,
        created: Iterable[int] = (),
        already_there: Iterable[int] = (),
        dead: Mapping[int, str] | None = None,
    ) -> None:
        """Remove records that the cluster has answered for; each is counted once, even if two shippers sent it.

        :param created: ``seq`` of accepted records.
        :param already_there: ``seq`` of records it already had.
        :param dead: reason of each permanently rejected record, by ``seq``.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self.writing() as db:
            shipped = sum(_delete(db, seq) for seq in created)
            repeated = sum(_delete(db, seq) for seq in already_there)
            buried = 0
            for seq, reason in (dead or {}).items():
                db.execute(
                    "INSERT OR IGNORE INTO dead_letter"
                    " SELECT seq, record_id, timestamp_ms, kind, body, bytes, ?, ? FROM record WHERE seq = ?",
                    (reason, now, seq),
                )
                buried += _delete(db, seq)
            _count(db, {"shipped": shipped, "already_there": repeated, "dead_letters": buried})

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """Read the permanently rejected records."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT record_id, reason, failed_at, body FROM dead_letter ORDER BY seq DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [DeadLetter(*row) for row in rows]

    def revive(self) -> int:
        """Queue the dead letters again, once the cause of their rejection is fixed."""
        with self.writing() as db:
            count = db.execute("SELECT count(*) FROM dead_letter").fetchone()[0]
            db.execute(
                "INSERT OR IGNORE INTO record (record_id, timestamp_ms, kind, body, bytes)"
                " SELECT record_id, timestamp_ms, kind, body, bytes FROM dead_letter ORDER BY seq"
            )
            db.execute("DELETE FROM dead_letter")
        return int(count)

    def page(
        self,
        *,
        after: tuple[int, str] | None = None,
        kind: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 1000,
    ) -> list[Spooled]:
        """Read records by time; no transaction stays open between pages, so that a long report blocks nothing.

        :param after: time and id of the last record of the previous page.
        :param since_ms: earliest time, inclusive.
        :param until_ms: latest time, exclusive.
        :return: records by time, then id.
        """
        where, values = ["1"], list[object]()
        if after is not None:
            where.append("(timestamp_ms, record_id) > (?, ?)")
            values += after
        for clause, value in (("kind = ?", kind), ("timestamp_ms >= ?", since_ms), ("timestamp_ms < ?", until_ms)):
            if value is not None:
                where.append(clause)
                values.append(value)
        sql = (
            "SELECT seq, record_id, timestamp_ms, body FROM record"
            f" WHERE {' AND '.join(where)} ORDER BY timestamp_ms, record_id LIMIT ?"
        )
        with self.reading() as db:
            return [Spooled(*row) for row in db.execute(sql, [*values, limit])]

    def counters(self) -> dict[str, int]:
        """Read the spool's counters and current size.

        :return: every name of ``COUNTERS``; ``stored_records``, ``stored_dead_letters``, ``stored_bytes``.
        """
        with self.reading() as db:
            counts = dict.fromkeys(COUNTERS, 0) | dict(db.execute("SELECT name, value FROM counter").fetchall())
            counts["stored_dead_letters"] = db.execute("SELECT count(*) FROM dead_letter").fetchone()[0]
        return counts

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run statements, all or none, while no other process writes."""
        with self._lock, self._translating(), transaction(self._connection) as db:
            yield db

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read one state of the file."""
        with self._lock, self._translating():
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    def _translating(self) -> contextlib.AbstractContextManager[None]:
        todo = "check whether its disk is full and which other processes use it"
        return sqlite_errors("the spool failed", where=self.path, todo=todo, kind=SpoolError)

    def _make_room(self, db: sqlite3.Connection) -> tuple[int, int]:
        limit = self.max_bytes or 0
        stored = db.execute("SELECT value FROM counter WHERE name = 'stored_bytes'").fetchone()[0]
        if stored <= limit:
            return 0, 0
        excess = stored - int(limit * _KEEP)
        dead, excess = _delete_oldest(db, "dead_letter", excess)
        live, _ = _delete_oldest(db, "record", excess)
        return live, dead


def _delete(db: sqlite3.Connection, seq: int) -> int:
    return db.execute("DELETE FROM record WHERE seq = ?", (seq,)).rowcount


def _delete_oldest(db: sqlite3.Connection, table: str, excess: int) -> tuple[int, int]:
    if excess <= 0:
        return 0, excess
    last, count = None, 0
    with contextlib.closing(db.execute(f"SELECT seq, bytes FROM {table} ORDER BY seq")) as cursor:
        for seq, row_bytes in cursor:
            last, count, excess = seq, count + 1, excess - row_bytes
            if excess <= 0:
                break
    if last is not None:
        db.execute(f"DELETE FROM {table} WHERE seq <= ?", (last,))
    return count, excess


def _count(db: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    db.executemany(
        "INSERT INTO counter VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        [(name, value) for name, value in counts.items() if value],
    )


def _create_private(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Queries are personal data, so only the owner may read them. SQLite gives its side files the same mode.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as err:
        raise InputError(
            f"the spool cannot be created ({err.strerror})", where=str(file), todo="choose a writable folder"
        ) from err


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    """Create the tables, while other processes may be doing the same."""
    connection.execute("PRAGMA journal_size_limit = 16777216")
    if _format(connection) == 0:
        with transaction(connection):
            if _format(connection) == 0:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise InputError(
                        "this SQLite file is not an OOD spool", where=str(file), todo="choose another file"
                    )
                for statement in _statements(_SCHEMA):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FORMAT}")
    if (spool_format := _format(connection)) != FORMAT:
        raise InputError(
            f"the spool has format {spool_format}, but this version reads format {FORMAT}",
            where=str(file),
            todo="upgrade darl-opensearch, or choose another file",
        )
    if not has_rollup(connection):  # a spool of an earlier version, whose records are taken in bit by bit
        with transaction(connection):
            create_rollup(connection, _statements)


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
