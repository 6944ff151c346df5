"""Item states on disk, for all workers and versions of a machine; the most used ones in memory.

A cache and nothing more: what cannot be read is computed again, and what cannot be written is not kept. SQLite holds
it, so any number of processes read and write it and a kill at any moment loses only the last batch.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Full, Queue

from darl_opensearch.errors import UsageError
from darl_opensearch.io.sqlite import open_finished, open_shared, transaction
from darl_opensearch.states.state import ItemState, pack_state, unpack_state

log = logging.getLogger(__name__)

FILE = "states.sqlite"
PAGE_BYTES = 32_768  # about one state a page: fewer links to follow than with pages of 4 KiB
DISK_BYTES = 10 << 30
MEMORY_BYTES = 256 << 20
EVICT_TO = 0.9  # of the bound, once it is passed
BATCH = 256  # states of one transaction
QUEUED = 4096  # states that wait to be written; more are not kept

# `id` grows: the lowest is the oldest.
_SCHEMA = "CREATE TABLE IF NOT EXISTS states(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)"


@dataclass
class StoreCounts:
    """What happened since the store was opened.

    :param hits: states found, in memory or on disk.
    :param damaged: entries whose bytes were not what was written.
    :param not_kept: states that were not written: the disk was full or read-only, or the queue was full.
    """

    hits: int = 0
    misses: int = 0
    written: int = 0
    evicted: int = 0
    damaged: int = 0
    not_kept: int = 0
    errors: int = 0


class StateStore:
    """Keeps item states. Threads may share one; close it to have everything written.

    :param folder: where the file is; None: states are kept in memory only.
    :param disk_bytes: bound of the file; the oldest states go first.
    :param memory_bytes: bound of what is kept in memory; the least recently used states go first.
    :raises UsageError: for a bound that holds nothing.
    """

    def __init__(self, folder: Path | None, *, disk_bytes: int = DISK_BYTES, memory_bytes: int = MEMORY_BYTES) -> None:
        if disk_bytes < 32 * PAGE_BYTES:
            raise UsageError(f"{disk_bytes} bytes hold no states", todo=f"give {32 * PAGE_BYTES} or more")
        self.counts = StoreCounts()
        self._disk_bytes, self._memory_bytes = disk_bytes, memory_bytes
        self._hot: OrderedDict[bytes, ItemState] = OrderedDict()
        self._hot_bytes = 0
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # a connection serves one thread at a time
        self._has_warned = False
        self._queue: Queue[tuple[bytes, ItemState] | None] = Queue(QUEUED)
        self._reader: sqlite3.Connection | None = None
        self._writer: threading.Thread | None = None
        self._on_disk = folder is not None
        if folder is not None:
            self._open(folder / FILE)

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = _connect(path)
            self._reader = _connect(path)
        except (sqlite3.Error, OSError) as err:
            self._reader = _connect_to_read(path)
            what = f"{path} cannot be opened" if self._reader is None else f"{path} can be read only"
            self._failed(f"item states are not kept on disk: {what} ({err})")
            return
        self._writer = threading.Thread(target=self._write, args=(writer,), name="darl-states", daemon=True)
        self._writer.start()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, ItemState]:
        """Find states, in memory and then on disk.

        :return: those that are there, by key; a damaged entry is not.
        """
        distinct = list(dict.fromkeys(keys))
        states_read: dict[bytes, ItemState] = {}
        with self._lock:
            for key in distinct:
                if (state := self._hot.get(key)) is not None:
                    self._hot.move_to_end(key)
                    states_read[key] = state
        if missing := [key for key in distinct if key not in states_read]:
            from_disk = self._read(missing)
            states_read |= from_disk
            with self._lock:
                self._remember(from_disk)
        with self._lock:
            self.counts.hits += len(states_read)
            self.counts.misses += len(distinct) - len(states_read)
        return states_read

    def put(self, states: Mapping[bytes, ItemState], *, wait: bool = False) -> None:
        """Keep states: in memory at once, on disk by a thread of the store.

        :param wait: wait for the disk rather than drop what it is too slow for.
        """
        with self._lock:
            self._remember(states)
            if self._on_disk and self._writer is None:
                self.counts.not_kept += len(states)
        if self._writer is None:
            return
        for entry in states.items():
            try:
                self._queue.put(entry, block=wait)
            except Full:
                with self._lock:
                    self.counts.not_kept += 1

    def contains(self, keys: Sequence[bytes]) -> set[bytes]:
        """Find which keys are in memory or on disk, without reading the states."""
        with self._lock:
            stored = {key for key in keys if key in self._hot}
        for batch in _batches([key for key in keys if key not in stored]):
            stored |= {key for (key,) in self._select("key", batch)}
        return stored

    def room(self) -> int | None:
        """Estimate how many more states the disk takes before the oldest go; None: it has none to go by."""
        with self._reading:
            if self._reader is None:
                return None
            try:
                used = _used(self._reader)
                count = int(self._reader.execute("SELECT count(*) FROM states").fetchone()[0])
            except sqlite3.Error:
                return None
        return max(0, int((self._disk_bytes - used) * count / used)) if count else None

    def flush(self) -> None:
        """Wait until all that was put is on disk, or given up."""
        self._queue.join()

    def close(self) -> None:
        """Write what waits, and close the file."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> StateStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def to_json(self) -> dict[str, int]:
        """Render counts and what is in memory."""
        with self._lock:
            return asdict(self.counts) | {"in_memory": len(self._hot), "memory_bytes": self._hot_bytes}

    def _remember(self, states: Mapping[bytes, ItemState]) -> None:
        for key, state in states.items():
            if (earlier := self._hot.pop(key, None)) is not None:
                self._hot_bytes -= earlier.nbytes
            self._hot[key] = state
            self._hot_bytes += state.nbytes
        while self._hot_bytes > self._memory_bytes and self._hot:
            self._hot_bytes -= self._hot.popitem(last=False)[1].nbytes

    def _select(self, columns: str, keys: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        marks = ",".join("?" * len(keys))
        with self._reading:
            if self._reader is None:
                return []
            try:
                return self._reader.execute(f"SELECT {columns} FROM states WHERE key IN ({marks})", keys).fetchall()
            except sqlite3.Error as err:
                self._failed(f"item states cannot be read ({err}); they are computed again")
                return []

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, ItemState]:
        states_read = {}
        for batch in _batches(keys):
            for key, value in self._select("key, value", batch):
                state = unpack_state(key, value)
                if state is None:
                    with self._lock:
                        self.counts.damaged += 1
                else:
                    states_read[key] = state
        return states_read

    def _write(self, db: sqlite3.Connection) -> None:
        """Write what is put, a batch in a transaction, until None comes."""
        ended = False
        while not ended:
            entries = [self._queue.get()]
            while len(entries) < BATCH:
                try:
                    entries.append(self._queue.get_nowait())
                except Empty:
                    break
            ended = None in entries
            rows = [(entry[0], pack_state(*entry)) for entry in entries if entry is not None]
            try:
                if rows:
                    self._write_batch(db, rows)
            except sqlite3.Error as err:
                with self._lock:
                    self.counts.not_kept += len(rows)
                self._failed(f"item states cannot be written ({err}); they are not kept")
            for _ in entries:
                self._queue.task_done()
        db.close()

    def _write_batch(self, db: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]]) -> None:
        with transaction(db):
            # An entry that is there was found damaged, or two workers computed it at once: the newer one stays.
            db.executemany("INSERT OR REPLACE INTO states(key, value) VALUES (?, ?)", rows)
            evicted = _evict(db, self._disk_bytes)
        with self._lock:
            self.counts.written += len(rows)
            self.counts.evicted += evicted

    def _failed(self, message: str) -> None:
        """Count an error; the first one is logged."""
        with self._lock:
            self.counts.errors += 1
            has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            log.warning("%s", message)


def _connect(path: Path) -> sqlite3.Connection:
    first = sqlite3.connect(path)
    try:
        first.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # counts only where there is no file yet
        first.execute(_SCHEMA)
    finally:
        first.close()
    db = open_shared(path, synchronous="NORMAL")
    db.execute("PRAGMA cache_size = -8192")
    return db


def _connect_to_read(path: Path) -> sqlite3.Connection | None:
    """Open a file of a folder that cannot be written; None where there is none that can be read.

    Should another process begin to write, a page may be read half-written: a state's checksum tells.
    """
    with contextlib.suppress(sqlite3.Error, OSError):
        db = open_finished(path)
        try:
            db.execute("SELECT 1 FROM states LIMIT 1")
        except sqlite3.Error:
            db.close()
            raise
        return db
    return None


def _used(db: sqlite3.Connection) -> int:
    pages, free = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    return PAGE_BYTES * int(pages - free)


def _evict(db: sqlite3.Connection, most: int) -> int:
    """Delete the oldest states where the file holds more than its bound; gives how many."""
    if (used := _used(db)) <= most:
        return 0
    count = int(db.execute("SELECT count(*) FROM states").fetchone()[0])
    too_many = min(count, int(count * (1 - EVICT_TO * most / used)) + 1)
    db.execute("DELETE FROM states WHERE id IN (SELECT id FROM states ORDER BY id LIMIT ?)", (too_many,))
    return too_many


def _batches(keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (keys[start : start + 500] for start in range(0, len(keys), 500))
