"""Judgments made on the page: a file that training reads, in which a pair has one grade."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.cluster.history import this_user, utc_now
from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.io.jsonl import parse_object
from darl_opensearch.io.lock import hold_lock
from darl_opensearch.io.writing import write_file
from darl_opensearch.records.lines import DataLine, LineKind, two_grades
from darl_opensearch.text import same_text

MADE_HERE = "try"  # of the field "judge"
Pair = tuple[str, str]


@dataclass(frozen=True)
class _Row:
    """A line of the file.

    :param data: as it stands there.
    :param line: None for a blank one.
    """

    data: bytes
    line: DataLine | None

    @property
    def pair(self) -> Pair | None:
        return (same_text(self.line.query), self.line.item_id) if self.line else None


class MarkedJudgments:
    """A file of judgments that is written to; lines of other pairs stay as they are, byte for byte.

    The file is replaced as a whole, so that nobody reads half a line, and read again before that, so that an editor may
    have changed it meanwhile. Make it with :meth:`holding`. Threads may share one.
    """

    def __init__(self, path: Path, k: int) -> None:
        self.path, self._k = path, k
        self._lock = threading.Lock()
        self._before: dict[Pair, list[bytes]] = {}  # lines of the pairs marked here, as they were
        self._rows: list[_Row] = []
        self._version: tuple[int, ...] | None = None  # of the file, when it was read
        self.grades("")

    @classmethod
    @contextlib.contextmanager
    def holding(cls, path: Path, k: int) -> Iterator[MarkedJudgments]:
        """Open a file, or one that the first mark makes, and keep other try-out pages from it.

        :param k: number of grades.
        :raises UsageError: for a packed file, or a folder that does not exist.
        :raises InputError: for an invalid line, or a pair with two grades.
        :raises DarlError: if another page writes to it.
        """
        path = path.resolve()  # a link stays one
        if path.suffix == ".gz":
            raise UsageError("a packed file cannot be added to", where=str(path), todo="unpack it first")
        if not path.parent.is_dir():
            raise UsageError("the folder does not exist", where=str(path.parent), todo="make it first")
        with hold_lock(path.with_name(f".{path.name}.lock"), "another darl try writes to this file", where=path):
            yield cls(path, k)

    def grades(self, query: str) -> dict[str, int]:
        """Return the grades that a query's items have, by id."""
        text = same_text(query)
        with self._lock:
            lines = [row.line for row in self._read() if row.line]
        return {line.item_id: line.grade for line in lines if same_text(line.query) == text}

    def marked_here(self, query: str) -> list[str]:
        """List the items of a query that were marked since the file was opened."""
        text = same_text(query)
        return [item_id for marked, item_id in self._before if marked == text]

    def mark(self, query: str, item_id: str, grade: int) -> None:
        """Give a pair a grade, in place of the one it has.

        A query that the file has, but for case and blanks, keeps its id, text and slice.

        :raises DarlError: if the file cannot be written, or has become invalid.
        """
        if not 0 <= grade < self._k:
            raise InputError(f"grade {grade} is not in 0..{self._k - 1}", todo="reload the page")
        pair = (same_text(query), item_id)
        with self._lock:
            rows = self._read()
            own = [row for row in rows if row.pair == pair]
            alike = next((row.line for row in rows if row.line and same_text(row.line.query) == pair[0]), None)
            by = {"grade": grade, "judge": MADE_HERE, "by": this_user(), "at": utc_now()}
            if own:
                lines = [_dump({**row.line.row, **by}, without="grade_probs") for row in own if row.line]
            else:
                kept = {k: alike.row[k] for k in ("query_id", "query", "slice") if k in alike.row} if alike else {}
                lines = [_dump({"query": query.strip(), **kept, "item_id": item_id, **by})]
            self._write(rows, pair, lines)
            self._before.setdefault(pair, [row.data for row in own])

    def take_back(self, query: str, item_id: str) -> None:
        """Undo what was marked since the file was opened.

        :raises InputError: if the pair was not marked here.
        """
        pair = (same_text(query), item_id)
        with self._lock:
            if pair not in self._before:
                raise InputError("this grade was not given here", todo="choose another grade to replace it")
            self._write(self._read(), pair, self._before[pair])
            del self._before[pair]

    def _read(self) -> list[_Row]:
        """Read the file, unless it is as it was read."""
        try:
            version = _version_of(self.path.stat())
            if version != self._version:
                self._rows, self._version = self._parse(self.path.read_bytes()), version
        except FileNotFoundError:
            return []
        except OSError as err:
            raise DarlError(f"cannot be read ({err.strerror})", where=str(self.path)) from err
        return self._rows

    def _parse(self, data: bytes) -> list[_Row]:
        kind, rows, seen = LineKind(k=self._k, may_be_empty=True), list[_Row](), dict[Pair, DataLine]()
        for number, raw in enumerate(io.BytesIO(data), 1):
            where = f"{self.path}, line {number}"
            text = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            row = _Row(raw, kind.parse(parse_object(text, where), where) if text.strip() else None)
            if row.line and row.pair:
                first = seen.setdefault(row.pair, row.line)
                if first.grade != row.line.grade:
                    raise two_grades(row.line, first.grade, first.where)
            rows.append(row)
        return rows

    def _write(self, rows: list[_Row], pair: Pair, lines: list[bytes]) -> None:
        """Replace a pair's lines where the first of them stands, or add them at the end."""
        place = next((n for n, row in enumerate(rows) if row.pair == pair), len(rows))
        before = [row.data for row in rows[:place]]
        after = [row.data for row in rows[place:] if row.pair != pair]
        parts = [*before, *lines, *after]
        ended = [part if part.endswith(b"\n") else part + b"\n" for part in parts]  # the last line may lack it
        mode = self.path.stat().st_mode if self.path.exists() else None
        try:
            write_file(self.path, b"".join(ended))
            if mode is not None:
                self.path.chmod(mode & 0o777)
        except OSError as err:
            raise DarlError(
                f"cannot be written ({err.strerror})", where=str(self.path), todo="free disk space, or allow writing"
            ) from err


def _version_of(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _dump(row: Mapping[str, object], *, without: str = "") -> bytes:
    """Render a line; ``without`` names a field that belonged to the grade before."""
    kept = {name: value for name, value in row.items() if name != without}
    return json.dumps(kept, ensure_ascii=False, allow_nan=False).encode() + b"\n"
