"""Lines of a query with an item, a grade or a text: judgments, tasks, traffic, pools and scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.values import (
    empty_file,
    parse_id,
    parse_query,
    parse_text,
    parse_whole_grade,
    require_id,
    unknown_item,
)

NOT_GRADED = -1
Need = Literal["required", "optional", "ignored"]


@dataclass(frozen=True, slots=True)
class DataLine:
    """A query, usually with an item.

    :param where: file and line, for messages.
    :param query: stripped text; ``""`` if missing and not required.
    :param query_id: ``""`` if missing.
    :param item_id: ``""`` if missing and not required.
    :param grade: in ``0..k-1``; :data:`NOT_GRADED` if grades are not read.
    :param slice: traffic slice, or ``""``.
    :param text: of the item, or None.
    """

    where: str
    query: str
    query_id: str = ""
    item_id: str = ""
    grade: int = NOT_GRADED
    slice: str = ""
    text: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def query_key(self) -> str:
        """The query's id, or its text if it has none."""
        return self.query_id or self.query


@dataclass(frozen=True, kw_only=True)
class LineKind:
    """Required and optional fields of a file's lines; ``query_id`` and ``slice`` are always optional.

    :param what: name of a line in messages, singular.
    :param items: ids of all items; None: any id is accepted.
    :param k: number of grades; None: ``grade`` is ignored.
    :param texts: item texts by id, for lines without ``text``.
    :param may_be_empty: whether files without lines are accepted.
    :param todo: advice for an unknown item.
    :param blank: ids of items without text, whose lines are counted here and passed over.
    """

    what: str = "judgment"
    query: Need = "required"
    item: Need = "required"
    text: Need = "ignored"
    items: Container[str] | None = None
    k: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    may_be_empty: bool = False
    todo: str = "add it to the items, or drop the line"
    blank: Counter[str] = field(default_factory=Counter)

    def read(self, *paths: Path) -> Iterator[DataLine]:
        """Read files line by line.

        :raises InputError: for an invalid line, or files without lines.
        """
        empty = not self.may_be_empty
        for path in paths:
            for where, row in read_jsonl(path):
                empty = False
                line = self.parse(row, where)
                if line.item_id in self.blank:
                    self.blank[line.item_id] += 1
                else:
                    yield line
        if empty:
            raise empty_file(", ".join(map(str, paths)), self.what)

    def parse(self, row: Mapping[str, Any], where: str) -> DataLine:
        """Parse a line.

        :raises InputError: naming the invalid field.
        """
        required = self.query == "required" or row.get("query") not in (None, "")
        query = parse_query(row, where) if required else ""
        query_id, slice_ = parse_id(row, "query_id", where), parse_id(row, "slice", where)
        item_id = require_id(row, "item_id", where) if self.item == "required" else ""
        if self.item == "optional":
            item_id = parse_id(row, "item_id", where)
        if self.items is not None and item_id not in self.items and item_id not in self.blank:
            raise unknown_item(item_id, where, todo=self.todo, known=self.items)
        grade = NOT_GRADED if self.k is None else parse_whole_grade(row, self.k, where)
        text = self._text(row, item_id, where)
        return DataLine(where, query, query_id, item_id, grade, slice_, text, row)

    def _text(self, row: Mapping[str, Any], item_id: str, where: str) -> str | None:
        if not row.get("text") and (text := self.texts.get(item_id)):
            return text
        if self.text == "required" or (self.text == "optional" and row.get("text") is not None):
            return parse_text(row, "text", where, todo="add the item's text, or pass the items file")
        return None


def changed_query(line: DataLine, before: str, *, first: str = "") -> InputError:
    """Make the error for a query id with two texts.

    :param first: file and line of the first text, if known.
    """
    return InputError(
        f"query {short(line.query_key)} is {short(line.query)} here, but was {short(before)}"
        + (f" (first: {first})" if first else ""),
        where=line.where,
        todo="give each query text its own query_id",
    )


def pair_twice(line: DataLine, first: str) -> InputError:
    """Make the error for a repeated pair."""
    return InputError(f"{_pair(line)} appears twice (first: {first})", where=line.where, todo="keep one of the two")


def two_grades(line: DataLine, before: int, first: str, *, todo: str = "keep one grade per pair") -> InputError:
    """Make the error for a pair with two grades."""
    return InputError(
        f"{_pair(line)} has grade {line.grade} here, but had {before} (first: {first})",
        where=line.where,
        todo=todo,
    )


def _pair(line: DataLine) -> str:
    return f"the pair of query {short(line.query)} and item {short(line.item_id)}"
