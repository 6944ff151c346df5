"""Reading JSONL, one JSON object per line, with errors that name file, line and cause."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from darl_opensearch.errors import InputError
from darl_opensearch.io.reading import open_bytes, reading

MAX_LINE_BYTES = 64 << 20  # far above any item; a file without line breaks must not fill the memory


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file object by object; blank lines are skipped, ``.gz`` files are unpacked.

    :yields: file and line for error messages, and the object.
    :raises InputError: if the file cannot be read, or a line is not a JSON object.
    """
    source = Path(path)
    with reading(source), open_bytes(source) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{source}, line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise InputError(
                    f"the line is longer than {MAX_LINE_BYTES >> 20} MB", where=where, todo="write one object per line"
                )
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # some editors put a byte order mark first
            if not line.isspace():
                yield where, parse_object(line, where)


def check_rereadable(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe, such as ``<(zcat …)``, for input that is read twice: the second time it would be empty.

    :raises InputError: if it exists and is not a regular file.
    """
    source = Path(path)
    if source.exists() and not source.is_file():
        raise InputError("the input cannot be read twice", where=str(source), todo="save it to a file first")


def parse_object(data: bytes, where: str, *, todo: str = "write one JSON object per line") -> dict[str, Any]:
    """Parse a JSON object; NaN, numbers beyond a float and lone surrogates are refused.

    :param todo: the remedy if it is not a JSON object.
    :raises InputError: naming ``where`` and the cause.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on a lone surrogate
    except UnicodeDecodeError as err:
        raise InputError(f"not UTF-8 at byte {err.start + 1}", where=where, todo="save the file as UTF-8") from err
    except UnicodeEncodeError as err:
        raise InputError("holds half of a surrogate pair", where=where, todo="correct the \\u escape") from err
    except (ValueError, RecursionError) as err:
        message = str(err)
        if isinstance(err, json.JSONDecodeError):
            message = f"{err.msg} at column {err.colno}"
            where += f", line {err.lineno}" if "\n" in err.doc.rstrip("\n") else ""
        raise InputError(f"not JSON ({message})", where=where, todo=todo) from err
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(
            type(value), "a number"
        )
        raise InputError(f"{kind}, not an object", where=where, todo=todo)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value
