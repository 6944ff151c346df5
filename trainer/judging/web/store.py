"""People's answers in SQLite, committed one by one, so that no crash loses any."""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darl_opensearch.errors import InputError
from darl_opensearch.io.sqlite import open_schema, sqlite_errors, transaction
from trainer.judging.base import Answer

RATER = re.compile(r"[A-Za-z0-9._-]{1,40}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answer (rater TEXT, task TEXT, grade INTEGER, at TEXT NOT NULL, PRIMARY KEY (rater, task))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (n INTEGER PRIMARY KEY AUTOINCREMENT, rater TEXT NOT NULL, task TEXT NOT NULL,
    answered INTEGER NOT NULL, before INTEGER, before_at TEXT);
"""


class AnswerStore:
    """Answers by rater and task, with undo. Any number of threads may use it.

    Every method raises DarlError if the disk is full, or the file damaged or locked by another program.

    :param path: the SQLite file; created if missing.
    :raises DarlError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        # Answers that the page shows as saved survive a power cut as well as a kill.
        self._db = open_schema(path, _SCHEMA, synchronous="FULL")

    def answer(self, rater: str, task: str, grade: int | None) -> None:
        """Commit an answer, replacing an earlier one, which :meth:`undo` restores.

        :param grade: None: skipped.
        """
        check_rater(rater)
        now = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds")
        with self._using(), transaction(self._db):
            before = self._db.execute(
                "SELECT grade, at FROM answer WHERE rater = ? AND task = ?", (rater, task)
            ).fetchone()
            self._db.execute(
                "INSERT INTO history (rater, task, answered, before, before_at) VALUES (?, ?, ?, ?, ?)",
                (rater, task, before is not None, *(before or (None, None))),
            )
            self._db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)", (rater, task, grade, now))

    def undo(self, rater: str) -> str | None:
        """Undo a rater's last answer.

        :return: its task; None if nothing is left to undo.
        """
        with self._using(), transaction(self._db):
            last = self._db.execute(
                "SELECT n, task, answered, before, before_at FROM history WHERE rater = ? ORDER BY n DESC LIMIT 1",
                (rater,),
            ).fetchone()
            if last is None:
                return None
            n, task, answered, before, at = last
            if answered:
                self._db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)", (rater, task, before, at))
            else:
                self._db.execute("DELETE FROM answer WHERE rater = ? AND task = ?", (rater, task))
            self._db.execute("DELETE FROM history WHERE n = ?", (n,))
            return str(task)

    def answers(self, rater: str) -> dict[str, Answer]:
        """Return a rater's answers by task."""
        with self._using():
            rows = self._db.execute("SELECT task, grade FROM answer WHERE rater = ?", (rater,)).fetchall()
        return {str(task): Answer(grade) for task, grade in rows}

    def raters(self) -> list[str]:
        """List the raters with any answer, sorted."""
        with self._using():
            return [str(row[0]) for row in self._db.execute("SELECT DISTINCT rater FROM answer ORDER BY rater")]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        todo = "free disk space, or check which process holds the file; saved answers are not lost"
        with self._lock, sqlite_errors("the answer file cannot be used", where=self.path, todo=todo):
            yield


def check_rater(name: str) -> str:
    """Check a rater's name.

    :raises InputError: if it is invalid.
    """
    if not RATER.fullmatch(name):
        raise InputError(
            f"{name[:50]!r} is not a valid rater name", todo="use up to 40 letters, digits, '.', '_', '-': ?rater=ann"
        )
    return name
