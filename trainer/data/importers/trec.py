"""Test collections: relevance judgments, topics and documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.jsonl import QRELS_HEADS
from darl_opensearch.records.values import like_known
from darl_opensearch.settings import setting
from trainer.data.importers.base import (
    IMPORTERS,
    Gains,
    ItemsWritten,
    Labels,
    Target,
    TextFields,
    id_of,
    split_list,
    text_of,
)
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.grading import GradeMapping
from trainer.data.importers.template import choose_template
from trainer.data.tables import read_lines

QRELS = FileSpec("qrels", "lines of topic, 0, document, grade; or BEIR's three columns", (), (), ("qrels",))
TOPICS = FileSpec("topics", "JSONL, or TSV without a header: id, text", ("id", "text"), (), ("topics", "queries"))
DOCUMENTS = FileSpec(
    "documents", "JSONL, or TSV without a header: the parameter columns", ("id",), (), ("documents", "corpus", "docs")
)
HEADS = ("score", "rel", "relevance", "grade", "rating", "label", "judgment", "judgement")  # last column of a header
_NEGATIVE = re.compile(r"-\d*[1-9]\d*(\.0*)?")


@IMPORTERS.register("trec", cite="https://trec.nist.gov/data/qrels_eng/; BEIR: Thakur et al. 2021, arXiv:2104.08663")
@dataclass(frozen=True, kw_only=True)
class Trec:
    """TREC: qrels, topics and documents; also BEIR's files (pass --field id=_id)."""

    sources: ClassVar[tuple[FileSpec, ...]] = (QRELS, TOPICS, DOCUMENTS)
    items: ItemsWritten = "judged"
    negative: Literal["refuse", "zero", "drop"] = setting("refuse", "what to do with negative grades")
    columns: str = setting("id,text", "column names of a TSV file of documents, such as id,url,title,body")
    labels: Labels = ""
    gains: Gains = ""
    template: TextFields = ""

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read the qrels with their topics and documents."""
        grading = GradeMapping.of(self.labels, self.gains)
        read_texts(TOPICS, files, store, "topic")
        dropped = 0
        for where, topic, document, value in _qrels(files.paths[QRELS.name], files.encoding_of(QRELS)):
            query = look_up_text(store, "topic", topic)
            if query is None:
                todo = like_known(topic, TextIds(store, "topic")) or "add it to the topics"
                raise InputError(f"there is no topic {short(topic)}", where=where, todo=todo)
            if _NEGATIVE.fullmatch(value.strip('"')):
                if self.negative == "refuse":
                    raise InputError(f"grade {value} is below 0", where=where, todo="pass --set negative=zero or drop")
                dropped += self.negative == "drop"
                if self.negative == "drop":
                    continue
                value = "0"
            store.judge(where, topic, query, document, grading.grade(value, "grade", where))
        for where, row in files.rows(DOCUMENTS, plain=split_list(self.columns)):
            store.item(where, id_of(row, "id", where), row)
        return Target(
            grading.scale(store.highest_grade()), choose_template(store, self.template), self.items == "judged",
            {"dropped_negative_grades": dropped}, grading.notes(store),
        )  # fmt: skip


def read_texts(source: FileSpec, files: ImportFiles, store: Gathering, table: str) -> None:
    """Read ids and texts into a new table of the store.

    :param source: JSONL, or TSV without a header, with ``id`` and ``text``.
    :param table: name of the new table; a constant, as it is put into SQL.
    :raises InputError: for an id with two texts.
    """
    store.sql(f"CREATE TABLE {table} (id TEXT PRIMARY KEY, text TEXT, at TEXT) WITHOUT ROWID")
    for where, row in files.rows(source, plain=("id", "text")):
        key, text = id_of(row, "id", where), text_of(row, "text", where)
        if not store.sql(f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?)", (key, text, where)).rowcount:
            before, at = store.sql(f"SELECT text, at FROM {table} WHERE id = ?", (key,)).fetchone()
            if before != text:
                raise InputError(
                    f"{source.name}: id {short(key)} appears twice with different texts (first: {at})",
                    where=where,
                    todo="keep one of the two",
                )


def look_up_text(store: Gathering, table: str, key: str) -> str | None:
    """Look up a text in a table of :func:`read_texts`."""
    row: tuple[Any, ...] | None = store.sql(f"SELECT text FROM {table} WHERE id = ?", (key,)).fetchone()
    return str(row[0]) if row else None


class TextIds:
    """Ids in a table of :func:`read_texts`, as a container."""

    def __init__(self, store: Gathering, table: str) -> None:
        self._store, self._table = store, table

    def __contains__(self, key: object) -> bool:
        return look_up_text(self._store, self._table, str(key)) is not None


def _qrels(path: Path, encoding: str) -> Iterator[tuple[str, str, str, str]]:
    for number, (where, line) in enumerate(read_lines(path, encoding)):
        cells = line.split()
        if number == 0 and (cells[0].casefold() in QRELS_HEADS or cells[-1].casefold() in HEADS):
            continue
        if len(cells) not in (3, 4):
            todo = "correct the line"
            if "," in line or ";" in line:
                todo = "write tabs or blanks between the columns, or import a table with queries as darl import jsonl"
            raise InputError(f"{len(cells)} columns, not topic, 0, document, grade", where=where, todo=todo)
        yield where, cells[0], cells[-2], cells[-1]
