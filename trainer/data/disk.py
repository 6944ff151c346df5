"""Items and judgments that do not fit into memory: checked once, stored in SQLite, read on demand.

The file is built as a temporary sibling and renamed. Its key digests all inputs, so a file with the expected key is
complete and current. A store behaves like the lists and dictionaries of the same data, in the same order.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, overload

from darl_opensearch.errors import DarlError
from darl_opensearch.io.digest import digest_file, digest_json
from darl_opensearch.io.reading import reading
from darl_opensearch.io.sqlite import open_finished, open_scratch
from darl_opensearch.io.writing import new_file
from darl_opensearch.records.items import Item, iter_items
from darl_opensearch.records.judgments import JudgedQuery, digest_records, gather_judgments
from darl_opensearch.records.lines import DataLine
from darl_opensearch.text import ItemRenderer, same_text
from trainer.data.splits import draw_held_out

FORMAT = 2
CACHE_KIB = 16 << 10  # SQLite's page cache, whatever the size of the file
TRAIN, SPARE, DEV = "train", "traffic", "dev"  # parts of the judged queries
_SCHEMA = """
CREATE TABLE item (n INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT, slice TEXT, line INTEGER);
CREATE TABLE query (n INTEGER PRIMARY KEY, id TEXT UNIQUE, given TEXT, text TEXT, slice TEXT, same TEXT, cut TEXT,
    part TEXT);
CREATE TABLE judgment (n INTEGER PRIMARY KEY, query INTEGER, item INTEGER, grade INTEGER, line INTEGER,
    UNIQUE (query, item));
CREATE TABLE train (n INTEGER PRIMARY KEY, query INTEGER);
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT);
"""


def digest_inputs(files: Iterable[Path], settings: Mapping[str, Any]) -> str:
    """Digest all inputs of a store, as its key.

    :raises InputError: if a file cannot be read.
    """
    digests = []
    for path in files:
        with reading(path):
            digests.append(digest_file(path))
    return digest_json({"format": FORMAT, "files": digests, "settings": settings})


class Builder:
    """Fills a new store."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.blank: Counter[str] = Counter()  # judgments passed over, by id of an item without text
        db.executescript(_SCHEMA)

    def add_items(self, path: Path, renderer: ItemRenderer) -> None:
        """Add the items of a file, as :func:`darl_opensearch.records.items.read_items` reads them."""

        def first(item_id: str) -> str | None:
            if item_id in self.blank:
                return f"{path}, without text"
            line = self._one("SELECT line FROM item WHERE id = ?", item_id)
            return None if line is None else _where(path, line)

        insert = "INSERT INTO item (id, text, slice, line) VALUES (?, ?, ?, ?)"
        for where, item in iter_items(path, renderer, self.blank, first):
            self.db.execute(insert, (item.item_id, item.text, item.slice, _line(where)))

    def add_judgments(self, path: Path, k: int, cut: Callable[[str], str]) -> None:
        """Add the judgments of a file, as :func:`darl_opensearch.records.judgments.read_judgments` reads them."""
        gather_judgments(path, _Ledger(self.db, path, cut), StoredItems(self.db), k, self.blank)
        self.db.execute("CREATE INDEX query_same ON query (same)")
        self.db.execute("CREATE INDEX query_cut ON query (cut)")
        self.db.execute("CREATE INDEX judgment_item ON judgment (item)")

    def hold_out(self, part: str, share: float, seed: int, *, key: str, most: int) -> None:
        """Hold out a share of the training queries, as :func:`trainer.data.splits.hold_out` does.

        :param part: part to move the queries to, :data:`SPARE` or :data:`DEV`.
        :raises InputError: if either part would be empty.
        """
        count = self._one("SELECT count(DISTINCT same) FROM query WHERE part = ?", TRAIN)
        wanted = set(draw_held_out(int(count), share, seed, key=key, most=most))
        texts = self.db.execute("SELECT same FROM query WHERE part = ? GROUP BY same ORDER BY min(n)", (TRAIN,))
        chosen = [same for place, (same,) in enumerate(texts) if place in wanted]
        change = "UPDATE query SET part = ? WHERE same = ? AND part = ?"
        self.db.executemany(change, ((part, same, TRAIN) for same in chosen))

    def finish(self, key: str) -> None:
        """Number the training queries, and store counts and digests."""
        self.db.execute("INSERT INTO train (query) SELECT n FROM query WHERE part = ? ORDER BY n", (TRAIN,))
        items, train = StoredItems(self.db), StoredQueries(self.db)
        pairs = self._one("SELECT count(*) FROM judgment j JOIN train t ON t.query = j.query")
        learnable = self._one("SELECT EXISTS (SELECT 1 FROM judgment j JOIN train t ON t.query = j.query "
                              "GROUP BY j.query HAVING min(grade) < max(grade))")  # fmt: skip
        facts = {
            "key": key, "items": len(items), "items_sha256": digest_records(items.values()), "pairs": int(pairs),
            "train_sha256": digest_records(train), "learnable": bool(learnable), "blank": dict(self.blank),
        }  # fmt: skip
        self.db.executemany("INSERT INTO fact VALUES (?, ?)", ((name, json.dumps(v)) for name, v in facts.items()))
        self.db.commit()

    def _one(self, statement: str, *values: object) -> Any:
        row = self.db.execute(statement, values).fetchone()
        return None if row is None else row[0]


class _Ledger:
    """Adds the judgments of a file to a store."""

    def __init__(self, db: sqlite3.Connection, path: Path, cut: Callable[[str], str]) -> None:
        self._db, self._path, self._cut = db, path, cut

    def add(self, line: DataLine) -> tuple[str, str | None]:
        row = self._db.execute("SELECT n, given FROM query WHERE id = ?", (line.query_key,)).fetchone()
        number, given = row or (self._add_query(line), line.query)
        if given != line.query:
            return given, None
        values = (number, line.item_id, line.grade, _line(line.where))
        added = self._db.execute(
            "INSERT OR IGNORE INTO judgment (query, item, grade, line) SELECT ?1, n, ?3, ?4 FROM item WHERE id = ?2",
            values,
        )
        if added.rowcount:
            return given, None
        (first,) = self._db.execute(
            "SELECT j.line FROM judgment j JOIN item i ON i.n = j.item WHERE j.query = ? AND i.id = ?", values[:2]
        ).fetchone()
        return given, _where(self._path, first)

    def _add_query(self, line: DataLine) -> int:
        text = self._cut(line.query)
        values = (line.query_key, line.query, text, line.slice, same_text(line.query), same_text(text), TRAIN)
        insert = "INSERT INTO query (id, given, text, slice, same, cut, part) VALUES (?, ?, ?, ?, ?, ?, ?)"
        return int(self._db.execute(insert, values).lastrowid or 0)


class Store:
    """A finished store, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_finished(path, cache_kib=CACHE_KIB)
        weakref.finalize(self, self._db.close)
        self.facts = {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM fact")}
        self.items = StoredItems(self._db, self.facts, owner=self)
        self.train = StoredQueries(self._db, self.facts, owner=self)

    def part(self, name: str) -> list[JudgedQuery]:
        """Read the queries of a held-out part.

        :param name: :data:`SPARE` or :data:`DEV`.
        :return: the queries, in order of first appearance.
        """
        rows = self._db.execute("SELECT n FROM query WHERE part = ? ORDER BY n", (name,)).fetchall()
        return [_judged(self._db, n) for (n,) in rows]

    def texts(self) -> Column:
        """Texts of the training queries, uncut and cut, in the form of :func:`darl_opensearch.text.same_text`."""
        return Column(self._db, f"SELECT 1 FROM query WHERE (same = ?1 OR cut = ?1) AND part = '{TRAIN}'", owner=self)

    def used(self) -> Column:
        """Ids of the items judged for training queries."""
        return Column(
            self._db,
            "SELECT 1 FROM item i JOIN judgment j ON j.item = i.n JOIN query q ON q.n = j.query "
            f"WHERE i.id = ? AND q.part = '{TRAIN}'",
            owner=self,
        )


class Column:
    """A set of values, tested by SQL.

    :param statement: SQL with one parameter that returns a row if the value is in the set.
    :param owner: kept alive, because a store closes its database when it is collected.
    """

    def __init__(self, db: sqlite3.Connection, statement: str, *, owner: object) -> None:
        self._db, self._statement, self._owner = db, f"{statement} LIMIT 1", owner

    def __contains__(self, value: object) -> bool:
        return self._db.execute(self._statement, (value,)).fetchone() is not None


class StoredItems(Mapping[str, Item]):
    """Items by id, in the order of the file."""

    def __init__(self, db: sqlite3.Connection, facts: Mapping[str, Any] | None = None, *, owner: object = None) -> None:
        self._db, self.facts, self._owner = db, dict(facts or {}), owner

    def __len__(self) -> int:
        if "items" in self.facts:
            return int(self.facts["items"])
        return int(self._db.execute("SELECT count(*) FROM item").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        for (item_id,) in self._db.execute("SELECT id FROM item ORDER BY n"):
            yield item_id

    def __contains__(self, item_id: object) -> bool:
        return self._db.execute("SELECT 1 FROM item WHERE id = ?", (item_id,)).fetchone() is not None

    def __getitem__(self, item_id: str) -> Item:
        row = self._db.execute("SELECT id, text, slice FROM item WHERE id = ?", (item_id,)).fetchone()
        if row is None:
            raise KeyError(item_id)
        return Item(*row)

    def values(self) -> ValuesView[Item]:
        """Iterate over items in one pass over the table, rather than by one lookup each."""
        return _Items(self)


class _Items(ValuesView[Item]):
    """Values of stored items."""

    def __init__(self, items: StoredItems) -> None:
        super().__init__(items)
        self._items = items

    def __iter__(self) -> Iterator[Item]:
        for row in self._items._db.execute("SELECT id, text, slice FROM item ORDER BY n"):
            yield Item(*row)


class StoredQueries(Sequence[JudgedQuery]):
    """Training queries, in order of first appearance."""

    def __init__(self, db: sqlite3.Connection, facts: Mapping[str, Any] | None = None, *, owner: object = None) -> None:
        self._db, self.facts, self._owner = db, dict(facts or {}), owner
        self._count = int(db.execute("SELECT count(*) FROM train").fetchone()[0])

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> JudgedQuery: ...

    @overload
    def __getitem__(self, place: slice) -> list[JudgedQuery]: ...

    def __getitem__(self, place: int | slice) -> JudgedQuery | list[JudgedQuery]:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(self._count))]
        if not -self._count <= place < self._count:
            raise IndexError(place)
        (number,) = self._db.execute("SELECT query FROM train WHERE n = ?", (place % self._count + 1,)).fetchone()
        return _judged(self._db, number)


def _judged(db: sqlite3.Connection, number: int) -> JudgedQuery:
    query_id, text, slice_ = db.execute("SELECT id, text, slice FROM query WHERE n = ?", (number,)).fetchone()
    rows = db.execute(
        "SELECT i.id, j.grade FROM judgment j JOIN item i ON i.n = j.item WHERE j.query = ? ORDER BY j.n", (number,)
    ).fetchall()
    return JudgedQuery(query_id, text, tuple(i for i, _ in rows), tuple(g for _, g in rows), slice_)


def open_store(path: Path | None, key: str, build: Callable[[Builder], None]) -> Store:
    """Open a store, building it first if it is missing or has another key.

    :param path: its file; None: a temporary one, deleted with the process.
    :raises InputError: for invalid input files.
    :raises DarlError: if the disk is full.
    """
    if path is None:
        folder = Path(tempfile.mkdtemp(prefix="darl-store-"))
        try:
            store = open_store(folder / "store.sqlite", key, build)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
        return store
    if not _has_key(path, key):
        with _folders(path.parent):
            build_store(path, key, build)
    return Store(path)


def build_store(path: Path, key: str, build: Callable[[Builder], None]) -> None:
    """Build a store as a temporary sibling, and rename it when complete."""
    try:
        with new_file(path, fixed_name=True) as work, closing(open_scratch(work, cache_kib=CACHE_KIB)) as db:
            builder = Builder(db)
            build(builder)
            builder.finish(key)
    except sqlite3.OperationalError as err:
        if "full" not in str(err):
            raise
        raise DarlError(
            f"the disk is full: items and judgments cannot be stored ({err})",
            where=str(path),
            todo="free about twice the size of the files, or choose another folder with --run",
        ) from err


def _has_key(path: Path, key: str) -> bool:
    if not path.is_file():
        return False
    try:
        with closing(Store(path)._db) as db:
            return bool(db.execute("SELECT value FROM fact WHERE name = 'key'").fetchone() == (json.dumps(key),))
    except sqlite3.DatabaseError:  # not a store, or of another format
        return False


@contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Create folders, and remove them again on failure, so that refused input leaves nothing behind."""
    new = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for part in new:
            part.rmdir()
        raise


def _where(path: Path, line: int) -> str:
    return f"{path}, line {line}"


def _line(where: str) -> int:
    return int(where.rpartition(" ")[2])
