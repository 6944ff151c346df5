"""Opening SQLite files in five ways, and translating SQLite's errors."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from darl_opensearch.errors import DarlError

BUSY_S = 10.0  # maximum wait for another process


@contextlib.contextmanager
def _closed_on_error(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield db
    except BaseException:
        db.close()
        raise


def open_shared(path: Path, *, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> sqlite3.Connection:
    """Open a file that several processes and threads read and write: WAL, each statement its own transaction.

    :param synchronous: FULL: a commit survives a power cut; NORMAL: only a kill.
    """
    deadline = time.monotonic() + BUSY_S
    with _closed_on_error(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)) as db:
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as err:  # switching the mode does not wait for its lock by itself
                if "locked" not in str(err) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        db.execute(f"PRAGMA synchronous = {synchronous}")
    return db


def open_schema(path: Path, schema: str, *, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> sqlite3.Connection:
    """Open a shared file, creating it and its folder if missing.

    :param schema: idempotent statements.
    :raises DarlError: if it cannot be opened, or is not a database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _closed_on_error(open_shared(path, synchronous=synchronous)) as db:
            db.executescript(schema)
    except (sqlite3.Error, OSError) as err:
        raise DarlError(f"cannot be opened ({err})", where=str(path), todo="move it away, or free disk space") from err
    return db


def open_scratch(path: Path | Literal["", ":memory:"], *, cache_kib: int = 2000) -> sqlite3.Connection:
    """Open a file that is deleted unless it is completed: no journal, no syncing.

    :param path: an empty or missing file; ``""``: a temporary file of SQLite's.
    :param cache_kib: bound on the pages in memory.
    """
    # Any thread may close it: the one in which the last reference goes does.
    with _closed_on_error(sqlite3.connect(path, check_same_thread=False)) as db:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", f"cache_size = -{cache_kib}"):
            db.execute(f"PRAGMA {pragma}")
    return db


def open_finished(path: Path, *, cache_kib: int = 2000) -> sqlite3.Connection:
    """Open a file that no longer changes; takes no lock, so it may be on a read-only disk. Any thread may close it."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    with _closed_on_error(sqlite3.connect(uri, uri=True, check_same_thread=False)) as db:
        db.execute(f"PRAGMA cache_size = -{cache_kib}")
    return db


def open_exclusive(path: Path, *, busy_s: float) -> sqlite3.Connection:
    """Open a file for this process alone until it is closed; fails if another process has it open."""
    with _closed_on_error(sqlite3.connect(path, timeout=busy_s)) as db:
        db.executescript("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT;")
    return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run all statements or none; takes the write lock at once, so that other processes wait."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # on a full disk SQLite has rolled back already
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def sqlite_errors(what: str, *, where: object, todo: str, kind: type[DarlError] = DarlError) -> Iterator[None]:
    """Translate SQLite's errors.

    :param what: what failed, as a clause; SQLite's message is appended.
    """
    try:
        yield
    except sqlite3.Error as err:
        raise kind(f"{what} ({err})", where=str(where), todo=todo) from err
