"""Reading JSONL, one JSON object per line, with errors that name file, line and cause."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from darl_opensearch.errors import InputError
from darl_opensearch.io.reading import UTF8, not_utf8, open_bytes, open_text, reading

_QRELS = re.compile(r"\S+\s+\S+(\s+\S+)?\s+-?\d+(\.\d+)?")
QRELS_HEADS = ("query-id", "query_id", "queryid", "qid", "topic", "topic_id")  # first column of a header
MAX_LINE_BYTES = 64 << 20  # far above any item; a file without line breaks must not fill the memory


def read_jsonl(path: str | os.PathLike[str], *, encoding: str = UTF8) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file object by object; blank lines are skipped, ``.gz`` files are unpacked.

    :yields: file and line for error messages, and the object.
    :raises InputError: if the file cannot be read, or a line is not a JSON object.
    """
    source = Path(path)
    with reading(source, encoding), _open(source, encoding) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            line = line.encode() if isinstance(line, str) else line
            number += 1
            where = f"{source}, line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise InputError(
                    f"the line is longer than {MAX_LINE_BYTES >> 20} MB", where=where, todo="write one object per line"
                )
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # some editors put a byte order mark first
            if not line.isspace():
                todo = (_of_another_format(line) if number == 1 else "") or "write one JSON object per line"
                yield where, parse_object(line, where, todo=todo)


def _open(path: Path, encoding: str) -> IO[Any]:
    return open_bytes(path) if encoding == UTF8 else open_text(path, encoding, newline="\n")


def check_rereadable(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe, such as ``<(zcat …)``, for input that is read twice: the second time it would be empty.

    :raises InputError: if it exists and is not a regular file.
    """
    source = Path(path)
    if source.exists() and not source.is_file():
        raise InputError("the input cannot be read twice", where=str(source), todo="save it to a file first")


def _of_another_format(line: bytes) -> str:
    """Say what to do with a file whose first line is not JSON but of a format that ``darl import`` reads."""
    text = line.decode(errors="replace").strip()
    cells = text.split()
    if _QRELS.fullmatch(text) or (len(cells) in (3, 4) and cells[0].casefold() in QRELS_HEADS):
        return "this looks like qrels: convert them with darl import trec QRELS TOPICS DOCUMENTS --out FOLDER"
    if text[:1].isalnum() and any(sign in text for sign in ",;\t"):
        return "this looks like a table: convert it with darl import jsonl FILE.csv ITEMS --out FOLDER"
    return ""


def parse_object(data: bytes, where: str, *, todo: str = "write one JSON object per line") -> dict[str, Any]:
    """Parse a JSON object, as :func:`parse_json` does."""
    value = parse_json(data, where, todo=todo)
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(
            type(value), "a number"
        )
        raise InputError(f"{kind}, not an object", where=where, todo=todo)
    return value


def parse_json(data: bytes, where: str, *, todo: str) -> Any:
    """Parse JSON; NaN, numbers beyond a float and lone surrogates are refused.

    :param todo: the remedy if it is not JSON.
    :raises InputError: naming ``where`` and the cause.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on a lone surrogate
    except UnicodeDecodeError as err:
        raise not_utf8(data, where, start=err.start) from err
    except UnicodeEncodeError as err:
        raise InputError("holds half of a surrogate pair", where=where, todo="correct the \\u escape") from err
    except (ValueError, RecursionError) as err:
        if b"\0" in data[:4]:
            raise not_utf8(data, where, start=data.index(b"\0")) from err
        message = str(err)
        if isinstance(err, json.JSONDecodeError):
            message = f"{err.msg} at column {err.colno}"
            where += f", line {err.lineno}" if "\n" in err.doc.rstrip("\n") else ""
        raise InputError(f"not JSON ({message})", where=where, todo=todo) from err
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value
