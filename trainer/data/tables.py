"""Streaming rows from JSONL, JSON, CSV, TSV and Parquet files."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from darl_opensearch.errors import InputError, load
from darl_opensearch.io.jsonl import MAX_LINE_BYTES, parse_json, parse_object, read_jsonl
from darl_opensearch.io.reading import UTF8, open_text, reading
from darl_opensearch.records.parquet import read_parquet

Row = dict[str, Any]
OnPartial = Callable[[int, int], object]
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")
_LINES = (".jsonl", ".ndjson")
_NAMED = re.compile(r'"?sep=(.)"?\s*')  # the first line by which a table names its delimiter to a spreadsheet
_BULK = {"index", "create", "update", "delete"}
_BULK_KEYS = {"_index", "_id", "_type", "routing", "require_alias", "op_type", "version", "version_type", "pipeline"}


def data_suffix(path: Path) -> str:
    """Return a file's suffix in lower case, ignoring ``.gz``, such as ``.tsv``."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    return name.suffix.lower()


def read_table(
    path: Path, *, columns: Sequence[str] = (), delimiter: str = "", plain: Sequence[str] = (), encoding: str = UTF8,
    short_after: str = "", on_partial: OnPartial = lambda hits, total: None,
) -> Iterator[tuple[str, Row]]:  # fmt: skip
    """Read a file row by row, in the format of its suffix (JSON unless CSV, TSV or Parquet).

    JSON is read as :func:`read_json` does.

    :param path: a file other than Parquet may end in ``.gz``.
    :param columns: columns to read from a Parquet file if present; empty: all.
    :param delimiter: of a CSV or TSV file; empty: as :func:`guess_delimiter` finds it.
    :param plain: column names of a CSV or TSV file without a header and without quoting.
    :param encoding: of a file other than Parquet.
    :param short_after: first column of a CSV file, after which a row may end: so Quepid exports unrated queries.
    :param on_partial: see :func:`read_json`.
    :yields: ``file, line n`` (``file, row n`` in Parquet), for messages, and the cells by column.
    :raises InputError: if the file cannot be read, or the number of cells differs from the header's.
    :raises MissingExtra: for a Parquet file if pyarrow is not installed.
    """
    kind = data_suffix(path)
    if kind in _PARQUET:
        yield from read_parquet(path, columns)
    elif kind in _DELIMITERS:
        table = _Table(path, encoding, list(plain), short_after)
        yield from table.read(_DELIMITERS[kind], delimiter or (_DELIMITERS[kind] if plain else ""))
    else:
        yield from read_json(path, encoding, on_partial)


def list_columns(path: Path) -> tuple[str, ...]:
    """List the columns of a Parquet file; empty for other files."""
    if data_suffix(path) not in _PARQUET:
        return ()
    return tuple(load("pyarrow.parquet", "parquet").read_schema(path).names)


def read_json(
    path: Path, encoding: str = UTF8, on_partial: OnPartial = lambda hits, total: None
) -> Iterator[tuple[str, Row]]:
    """Read JSONL, or a file that is one JSON object or a list of them, which is loaded as a whole.

    The answer of a search gives its hits, and a file for ``_bulk`` its documents, as hits with the id of their action.

    :param on_partial: called at the end with hits read and hits found, if the answers hold fewer than the search found.
    :raises InputError: if the file cannot be read, or is not JSON.
    """
    whole = data_suffix(path) not in _LINES and path.is_file() and not _has_object_per_line(path, encoding)
    action: Row = {}
    read, found = 0, 0  # hits of all answers, which may be pages of one search, and its total
    for where, row in _read_document(path, encoding) if whole else read_jsonl(path, encoding=encoding):
        hits = row.get("hits")
        inner = hits.get("hits") if isinstance(hits, dict) else None
        if isinstance(hits, dict) and isinstance(inner, list):
            total = hits.get("total")
            total = total.get("value") if isinstance(total, dict) else total
            read, found = read + len(inner), max(found, total if isinstance(total, int) else 0)
            for number, hit in enumerate(inner):
                place = f"{where}, hits.hits[{number}]"
                if not isinstance(hit, dict):
                    raise InputError("not an object", where=place, todo="export it again")
                yield place, hit
        elif action:
            yield where, {**action, "_source": row}
            action = {}
        elif not whole and (kind := _bulk_action(row)):
            if kind in ("update", "delete"):
                raise InputError(f"a bulk action {kind!r} has no document", where=where, todo="export the documents")
            action = row[kind]
        else:
            yield where, row
    if read < found:
        on_partial(read, found)


def _has_object_per_line(path: Path, encoding: str) -> bool:
    """Whether the first line is a JSON object and others follow, or the file is no JSON document at all."""
    lines = 0
    with reading(path, encoding), open_text(path, encoding) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if not line.strip():
                continue
            if lines or line.lstrip()[0] not in "{[":
                return True
            try:
                if not isinstance(json.loads(line), dict):
                    return False
            except (ValueError, RecursionError):
                return False
            lines += 1
    return not lines


def _read_document(path: Path, encoding: str) -> Iterator[tuple[str, Row]]:
    todo = "export it again; name JSONL files .jsonl"
    with reading(path, encoding), open_text(path, encoding) as file:
        data = file.read().encode("utf-8", "surrogatepass")
    if not data.lstrip().startswith(b"["):
        yield str(path), parse_object(data, str(path), todo=todo)
        return
    for number, row in enumerate(parse_json(data, str(path), todo=todo)):
        if not isinstance(row, dict):
            raise InputError("not an object", where=f"{path}, [{number}]", todo="export a list of objects")
        yield f"{path}, [{number}]", row


def _bulk_action(row: Row) -> str:
    """Return the action of a ``_bulk`` line, or ``""`` for any other line."""
    name = str(next(iter(row), ""))
    meta = row.get(name)
    return name if len(row) == 1 and name in _BULK and isinstance(meta, dict) and _BULK_KEYS >= meta.keys() else ""


def guess_delimiter(line: str, usual: str = ",") -> str:
    """Find the delimiter of a table: the most frequent of ``,``, ``;``, tab and ``|`` in its header.

    :param line: the header.
    :param usual: preferred if another one is as frequent.
    """
    unquoted = re.sub(r'"[^"]*"', "", line)
    signs: tuple[str, ...] = (usual, ",", ";", "\t", "|")
    return max(signs, key=lambda sign: unquoted.count(sign))


class _Table:
    """A CSV or TSV file."""

    def __init__(self, path: Path, encoding: str, header: list[str], short_after: str) -> None:
        self.path, self.encoding, self.header, self.short_after = path, encoding, header, short_after
        self.plain = bool(header)

    def read(self, usual: str, delimiter: str) -> Iterator[tuple[str, Row]]:
        """Read the rows.

        :param usual: delimiter of the file's suffix.
        :param delimiter: the file's; empty: to be found.
        """
        with reading(self.path, self.encoding), open_text(self.path, self.encoding) as file:
            if csv.field_size_limit() < MAX_LINE_BYTES:
                csv.field_size_limit(MAX_LINE_BYTES)  # the default of 128 kB is too low for long descriptions
            lines = _lines(self.path, file)
            before, first = 0, ""  # lines before the first row
            for first in lines:
                if not self.plain and (named := _NAMED.fullmatch(first)):
                    delimiter = named[1]
                elif first.strip():
                    break
                before += 1
            delimiter = delimiter or guess_delimiter(first, usual)
            reader = csv.reader(
                itertools.chain([first], lines),
                delimiter=delimiter,
                quoting=csv.QUOTE_NONE if self.plain else csv.QUOTE_MINIMAL,
                skipinitialspace=not self.plain,  # so that quotes after a blank are quotes
                strict=not self.plain,
            )
            try:
                yield from self._rows(reader, before)
            except csv.Error as err:
                where = f"{self.path}, line {before + reader.line_num}"
                raise InputError(f"not a table ({err})", where=where, todo="save the file as CSV again") from err

    def _rows(self, reader: Any, before: int) -> Iterator[tuple[str, Row]]:
        line = before + 1
        for cells in reader:
            # A quoted cell may span lines: name the first.
            where, line = f"{self.path}, line {line}", before + reader.line_num + 1
            if not cells or cells == [""]:
                continue
            if not self.header:
                self.header = [cell.strip() for cell in cells]
                if repeated := sorted({name for name in self.header if self.header.count(name) > 1}):
                    raise InputError(f"column {repeated[0]!r} appears twice", where=where, todo="rename one of the two")
                continue
            if len(cells) == 1 and self.header[0] == self.short_after:
                cells += [""] * (len(self.header) - 1)
            if len(cells) != len(self.header):
                raise InputError(
                    f"{len(cells)} cells for {len(self.header)} columns ({', '.join(self.header)})",
                    where=where,
                    todo="correct the line, or where the format takes columns, pass --set columns=id,title,body"
                    if self.plain
                    else "quote the cells that hold the delimiter, or correct the line",
                )
            yield where, dict(zip(self.header, cells, strict=True))


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield lines unchanged, and refuse one that is too long for memory."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            what = f"the line is longer than {MAX_LINE_BYTES >> 20} MB"
            raise InputError(what, where=f"{path}, line {number}", todo="write one row per line")
        yield line


def read_lines(path: Path, encoding: str = UTF8) -> Iterator[tuple[str, str]]:
    """Read the non-blank lines of a text file.

    :yields: ``file, line n``, for messages, and the stripped line.
    :raises InputError: if the file cannot be read.
    """
    with reading(path, encoding), open_text(path, encoding) as file:
        for number, line in enumerate(_lines(path, file), 1):
            if line.strip():
                yield f"{path}, line {number}", line.strip()
