"""Answers that were paid for, on disk: a killed run asks for none of them again."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from darl_opensearch.errors import DarlError
from trainer.judging.database import using

_SCHEMA = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000;
CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (place INTEGER PRIMARY KEY CHECK (place = 0), calls INTEGER, sent INTEGER,
    received INTEGER);
INSERT OR IGNORE INTO spent VALUES (0, 0, 0, 0);
"""


class Cache:
    """Answers by what was asked, and what asking has cost so far. Any number of threads may use it.

    Every method raises DarlError when the disk is full, or the file damaged.

    :param path: the SQLite file; made where it is missing.
    :raises DarlError: when it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock, self._path = threading.Lock(), path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as err:
            raise DarlError(
                f"cannot be opened ({err})", where=str(path), todo="move it away, or free the disk"
            ) from err

    def get(self, key: str) -> dict[str, Any] | None:
        """Look an answer up.

        :param key: digest of what was asked.
        :return: what was put there, or None.
        """
        with self._using():
            row = self._db.execute("SELECT value FROM answer WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep an answer.

        :param key: digest of what was asked.
        """
        with self._using():
            self._db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?)", (key, json.dumps(value)))

    def spend(self, prompt: int, completion: int) -> None:
        """Add a request to what was spent."""
        with self._using():
            self._db.execute(
                "UPDATE spent SET calls = calls + 1, sent = sent + ?, received = received + ?", (prompt, completion)
            )

    def spent(self) -> tuple[int, int, int]:
        """Say what was spent.

        :return: requests, tokens sent, tokens received.
        """
        with self._using():
            calls, sent, received = self._db.execute("SELECT calls, sent, received FROM spent").fetchone()
        return int(calls), int(sent), int(received)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _using(self) -> AbstractContextManager[None]:
        todo = "free the disk, then give the same command again: answers so far are kept"
        return using(self._lock, self._path, "the file of answers", todo=todo)
