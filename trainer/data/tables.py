"""Streaming rows from JSONL, CSV, TSV and Parquet files."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from darl_opensearch.errors import InputError, load
from darl_opensearch.io.jsonl import MAX_LINE_BYTES, parse_object, read_jsonl
from darl_opensearch.io.reading import open_bytes, reading
from darl_opensearch.records.parquet import read_parquet

Row = dict[str, Any]
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")


def data_suffix(path: Path) -> str:
    """Return a file's suffix in lower case, ignoring ``.gz``, such as ``.tsv``."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    return name.suffix.lower()


def read_table(
    path: Path, *, columns: Sequence[str] = (), delimiter: str = "", plain: Sequence[str] = ()
) -> Iterator[tuple[str, Row]]:
    """Read a file row by row, in the format of its suffix (JSONL unless CSV, TSV or Parquet).

    :param path: a CSV, TSV or JSONL file may end in ``.gz``.
    :param columns: columns to read from a Parquet file if present; empty: all.
    :param delimiter: of a CSV or TSV file; empty: by its suffix.
    :param plain: column names of a CSV or TSV file without a header and without quoting.
    :yields: ``file, line n`` (``file, row n`` in Parquet), for messages, and the cells by column.
    :raises InputError: if the file cannot be read, or the number of cells differs from the header's.
    :raises MissingExtra: for a Parquet file if pyarrow is not installed.
    """
    kind = data_suffix(path)
    if kind in _PARQUET:
        yield from read_parquet(path, columns)
    elif kind in _DELIMITERS:
        yield from _read_delimited(path, delimiter or _DELIMITERS[kind], plain)
    else:
        yield from read_jsonl(path)


def list_columns(path: Path) -> tuple[str, ...]:
    """List the columns of a Parquet file; empty for other files."""
    if data_suffix(path) not in _PARQUET:
        return ()
    return tuple(load("pyarrow.parquet", "parquet").read_schema(path).names)


def _read_delimited(path: Path, delimiter: str, plain: Sequence[str]) -> Iterator[tuple[str, Row]]:
    try:
        with reading(path), _open_text(path) as file:
            if csv.field_size_limit() < MAX_LINE_BYTES:
                csv.field_size_limit(MAX_LINE_BYTES)  # the default of 128 kB is too low for long descriptions
            reader = csv.reader(
                _lines(path, file),
                delimiter=delimiter,
                quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
                strict=not plain,
            )
            yield from _rows(path, reader, list(plain), quoted=not plain)
    except csv.Error as err:
        where = f"{path}, line {reader.line_num}"
        raise InputError(f"not a table ({err})", where=where, todo="save the file as CSV again") from err


def _rows(path: Path, reader: Any, header: list[str], *, quoted: bool) -> Iterator[tuple[str, Row]]:
    line = 1
    for cells in reader:
        where, line = f"{path}, line {line}", reader.line_num + 1  # a quoted cell may span lines: name the first
        if not cells or cells == [""]:
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if repeated := sorted({name for name in header if header.count(name) > 1}):
                raise InputError(f"column {repeated[0]!r} appears twice", where=where, todo="rename one of the two")
            continue
        if len(cells) != len(header):
            raise InputError(
                f"{len(cells)} cells for {len(header)} columns ({', '.join(header)})",
                where=where,
                todo="quote the cells that hold the delimiter, or correct the line"
                if quoted
                else "correct the line, or where the format takes columns, pass --set columns=id,title,body",
            )
        yield where, dict(zip(header, cells, strict=True))


def _open_text(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield lines unchanged, and refuse one that is too long for memory."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            what = f"the line is longer than {MAX_LINE_BYTES >> 20} MB"
            raise InputError(what, where=f"{path}, line {number}", todo="write one row per line")
        yield line


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Read the non-blank lines of a text file.

    :yields: ``file, line n``, for messages, and the stripped line.
    :raises InputError: if the file cannot be read.
    """
    with reading(path), _open_text(path) as file:
        for number, line in enumerate(_lines(path, file), 1):
            if line.strip():
                yield f"{path}, line {number}", line.strip()


def read_document(path: Path) -> Row:
    """Read a file with one JSON object into memory.

    :raises InputError: if it cannot be read, or is not a JSON object.
    """
    with reading(path), open_bytes(path) as file:
        data = file.read()
    return parse_object(data.removeprefix(codecs.BOM_UTF8), str(path), todo="export it again; name JSONL files .jsonl")
