"""Paid answers on disk, so that a killed run does not pay for them again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darl_opensearch.io.sqlite import open_schema, sqlite_errors

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (place INTEGER PRIMARY KEY CHECK (place = 0), calls INTEGER, sent INTEGER,
    received INTEGER);
INSERT OR IGNORE INTO spent VALUES (0, 0, 0, 0);
"""


class Cache:
    """Answers by request, and usage so far. Any number of threads may use it.

    Every method raises DarlError if the disk is full or the file damaged.

    :param path: the SQLite file; created if missing.
    :raises DarlError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock, self._path = threading.Lock(), path
        self._db = open_schema(path, _SCHEMA, synchronous="NORMAL")

    def get(self, key: str) -> dict[str, Any] | None:
        """Look up an answer; None if missing."""
        with self._using():
            row = self._db.execute("SELECT value FROM answer WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Store an answer."""
        with self._using():
            self._db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?)", (key, json.dumps(value)))

    def spend(self, prompt: int, completion: int) -> None:
        """Add a request to the usage."""
        with self._using():
            self._db.execute(
                "UPDATE spent SET calls = calls + 1, sent = sent + ?, received = received + ?", (prompt, completion)
            )

    def spent(self) -> tuple[int, int, int]:
        """Return requests, input tokens and output tokens used."""
        with self._using():
            calls, sent, received = self._db.execute("SELECT calls, sent, received FROM spent").fetchone()
        return int(calls), int(sent), int(received)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        todo = "free disk space, then run the same command again: answers so far are kept"
        with self._lock, sqlite_errors("the answer cache cannot be used", where=self._path, todo=todo):
            yield
