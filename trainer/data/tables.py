"""Rows of any table a team keeps its data in: JSONL, CSV, TSV, Parquet; one after the other, never all at once."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from darl_opensearch.errors import InputError, load
from darl_opensearch.io.jsonl import MAX_LINE_BYTES, read_jsonl
from darl_opensearch.records.parquet import read_parquet

Row = dict[str, Any]
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")
_DAMAGED = (UnicodeDecodeError, EOFError, zlib.error, OSError)  # BadGzipFile is an OSError


def kind_of(path: Path) -> str:
    """Last suffix of a file's name, ``.gz`` not counted.

    :return: a suffix such as ``.tsv``, in lower case.
    """
    name = path.with_suffix("") if path.suffix == ".gz" else path
    return name.suffix.lower()


def read_table(
    path: Path, *, columns: Sequence[str] = (), delimiter: str = "", plain: Sequence[str] = ()
) -> Iterator[tuple[str, Row]]:
    """Read one row after the other; the suffix says how (JSONL unless it is one of CSV, TSV or Parquet).

    :param path: the file; a CSV, TSV or JSONL file may end in ``.gz``.
    :param columns: the columns wanted of a Parquet file, where it has them; empty: all.
    :param delimiter: what parts the cells of a CSV or TSV file, where its suffix does not say it.
    :param plain: names of the columns of a file without a header, whose cells are never quoted.
    :yields: where the row stands (``file, line n``; ``file, row n`` in Parquet) and its cells by column.
    :raises InputError: when the file cannot be read, or a row has another number of cells than the header.
    :raises MissingExtra: for a Parquet file, when pyarrow is not installed.
    """
    kind = kind_of(path)
    if kind in _PARQUET:
        yield from read_parquet(path, columns)
    elif kind in _DELIMITERS:
        yield from _read_delimited(path, delimiter or _DELIMITERS[kind], plain)
    else:
        yield from read_jsonl(path)


def columns_of(path: Path) -> tuple[str, ...]:
    """List the columns of a Parquet file.

    :param path: a file that was read before.
    :return: their names; none for a file of another kind.
    """
    if kind_of(path) not in _PARQUET:
        return ()
    return tuple(load("pyarrow.parquet", "parquet").read_schema(path).names)


def _read_delimited(path: Path, delimiter: str, plain: Sequence[str]) -> Iterator[tuple[str, Row]]:
    try:
        with _open_text(path) as file:
            if csv.field_size_limit() < MAX_LINE_BYTES:
                csv.field_size_limit(MAX_LINE_BYTES)  # its own limit of 128 kB is below a long description
            reader = csv.reader(
                _lines(path, file),
                delimiter=delimiter,
                quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
                strict=not plain,
            )
            yield from _rows(path, reader, list(plain), quoted=not plain)
    except csv.Error as err:
        where = f"{path}, line {reader.line_num}"
        raise InputError(f"not a table ({err})", where=where, todo="write the file again as CSV") from err
    except _DAMAGED as err:
        raise _damaged(path, err) from err


def _rows(path: Path, reader: Any, header: list[str], *, quoted: bool) -> Iterator[tuple[str, Row]]:
    line = 1
    for cells in reader:
        where, line = f"{path}, line {line}", reader.line_num + 1  # a quoted cell may span lines: name the first
        if not cells or cells == [""]:
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if repeated := sorted({name for name in header if header.count(name) > 1}):
                raise InputError(f"column {repeated[0]!r} is there twice", where=where, todo="rename one of the two")
            continue
        if len(cells) != len(header):
            raise InputError(
                f"{len(cells)} cells, where there are {len(header)} columns ({', '.join(header)})",
                where=where,
                todo="quote the cells that hold the delimiter, or correct the line"
                if quoted
                else "correct the line; a format that takes columns is told them by --set columns=id,title,body",
            )
        yield where, dict(zip(header, cells, strict=True))


def _open_text(path: Path) -> IO[str]:
    raw = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Lines as they are, none of them so long that it fills the memory."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            what = f"the line is longer than {MAX_LINE_BYTES >> 20} MB"
            raise InputError(what, where=f"{path}, line {number}", todo="write a row a line")
        yield line


def _damaged(path: Path, err: Exception) -> InputError:
    if isinstance(err, UnicodeDecodeError):
        return InputError("not UTF-8", where=str(path), todo="save the file as UTF-8")
    if isinstance(err, gzip.BadGzipFile | EOFError | zlib.error):
        return InputError(f"damaged gzip data ({err})", where=str(path), todo="make the file again")
    reason = getattr(err, "strerror", None) or err
    return InputError(f"cannot be read ({reason})", where=str(path), todo="check the path and its permissions")


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Read the lines of a text file that are not blank.

    :param path: the file; ``.gz`` too.
    :yields: ``file, line n`` and the line.
    :raises InputError: when it cannot be read.
    """
    try:
        with _open_text(path) as file:
            for number, line in enumerate(_lines(path, file), 1):
                if line.strip():
                    yield f"{path}, line {number}", line.strip()
    except _DAMAGED as err:
        raise _damaged(path, err) from err


def read_document(path: Path) -> Row:
    """Read a file that is one JSON object. It is in memory as a whole.

    :param path: the file; ``.gz`` too.
    :raises InputError: when it cannot be read, or is something else.
    """
    try:
        with _open_text(path) as file:
            text = file.read()
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as err:
        what = f"not JSON ({err.msg} at column {err.colno})"
        raise InputError(
            what, where=f"{path}, line {err.lineno}", todo="export it again; JSONL ends in .jsonl"
        ) from err
    except RecursionError as err:
        raise InputError("not JSON (nested too deep)", where=str(path), todo="export it again") from err
    except UnicodeEncodeError as err:
        what = "holds half of a surrogate pair"
        raise InputError(what, where=str(path), todo="correct the \\u escape") from err
    except _DAMAGED as err:
        raise _damaged(path, err) from err
    except ValueError as err:  # NaN, or a number of thousands of digits
        raise InputError(f"not JSON ({err})", where=str(path), todo="export it again; JSONL ends in .jsonl") from err
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=str(path), todo="export it again; JSONL ends in .jsonl")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
