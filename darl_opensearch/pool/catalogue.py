"""Item texts by id, on disk, so that a catalogue may be of any size."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from darl_opensearch.io.sqlite import open_finished, open_scratch, sqlite_errors
from darl_opensearch.io.writing import new_file
from darl_opensearch.pool.pairs import read_pool_rows
from darl_opensearch.records.items import identify_items
from darl_opensearch.text import ItemTemplate, NoTextError

_BATCH = 500  # ids per query; the oldest SQLite builds take 999 parameters


class ItemTexts:
    """Rendered items in a SQLite file. Use :meth:`build` once, then :meth:`open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @staticmethod
    def build(path: Path, items: Path, template: ItemTemplate, *, most_chars: int) -> None:
        """Render a file of items into a catalogue, written to a temporary sibling and renamed.

        An item without text is kept as such, for a pair that names it.

        :param items: JSONL (plain or ``.gz``) or Parquet, one item per row.
        :param most_chars: maximum characters of a text; the rest cannot reach the model.
        :raises InputError: for a broken line, or a missing or repeated id.
        """
        with new_file(path, fixed_name=True) as work, _errors(path), contextlib.closing(open_scratch(work)) as db:
            db.execute("CREATE TABLE item (item_id TEXT PRIMARY KEY, text TEXT NOT NULL, place TEXT NOT NULL)")

            def first(item_id: str) -> str | None:
                row = db.execute("SELECT place FROM item WHERE item_id = ?", (item_id,)).fetchone()
                return str(row[0]) if row else None

            for where, item_id, item in identify_items(items, read_pool_rows(items), template, first):
                try:
                    text = template.render(item, where=where)[:most_chars]
                except NoTextError:
                    text = ""
                db.execute("INSERT INTO item VALUES (?, ?, ?)", (item_id, text, where))
            db.commit()

    @classmethod
    def open(cls, path: Path) -> ItemTexts:
        """Open a catalogue written by :meth:`build` for reading; close it."""
        with _errors(path):
            return cls(path, open_finished(path))

    def count_without_text(self) -> int:
        """Count the items that have no text."""
        with _errors(self.path):
            return int(self._connection.execute("SELECT count(*) FROM item WHERE text = ''").fetchone()[0])

    def texts(self, item_ids: Iterable[str]) -> dict[str, str]:
        """Look up item texts by id; empty for an item without text."""
        rows: dict[str, str] = {}
        ids = iter(dict.fromkeys(item_ids))
        with _errors(self.path):
            while batch := list(islice(ids, _BATCH)):
                select = f"SELECT item_id, text FROM item WHERE item_id IN ({', '.join('?' * len(batch))})"
                rows.update(self._connection.execute(select, batch))
        return rows

    def __enter__(self) -> ItemTexts:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _errors(path: Path) -> contextlib.AbstractContextManager[None]:
    return sqlite_errors("the item index failed", where=path, todo="check free space; --fresh rebuilds it")
