"""Formats of judgments that are recognised but not imported, each with what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError
from darl_opensearch.io.reading import open_text, reading

_HEAD = 4096  # characters that decide
_ROWS = "write one row per judgment with query, item_id and grade as CSV or JSONL, then use darl import jsonl"
_MARKUP = re.compile(r"\s*<[?!]?[A-Za-z]")
_RANKLIB = re.compile(r"(?:\s*#[^\n]*\n)*\s*[-+.\d]+\s+qid:\S+\s+\d+:")


def refuse_unsupported_file(path: Path, encoding: str) -> None:
    """Refuse a file whose beginning shows a format that is not imported.

    :raises InputError: for SGML or XML, such as TREC's topics and documents, and for RankLib's feature vectors.
    """
    if not path.is_file() or path.suffix in (".parquet", ".pq"):
        return
    with reading(path, encoding), open_text(path, encoding) as file:
        head = file.read(_HEAD)
    if _MARKUP.match(head):
        raise InputError(
            "this is SGML or XML, such as TREC's topics and documents, which is not imported", where=str(path),
            todo="convert it to JSONL with id and text, for example with ir_datasets export, or to TSV",
        )  # fmt: skip
    if _RANKLIB.match(head):
        raise InputError(
            "these are feature vectors in RankLib's format (SVMlight), which has no texts and is not imported",
            where=str(path), todo=_ROWS,
        )  # fmt: skip


def refuse_unsupported(row: Mapping[str, Any], where: str) -> None:
    """Refuse an object of a format that is not imported.

    :raises InputError: for a request to the rank evaluation API, and for ratings of the Rated Ranking Evaluator (RRE).
    """
    if isinstance(row.get("requests"), list):
        name = "a request to the rank evaluation API (_rank_eval)"
    elif "topics" in row and ("id_field" in row or "corpora_file" in row or "index" in row):
        name = "a ratings file of the Rated Ranking Evaluator (RRE)"
    elif "query_groups" in row or "relevant_documents" in row:
        name = "part of a ratings file of the Rated Ranking Evaluator (RRE)"
    else:
        return
    raise InputError(f"this is {name}, which is not imported", where=where, todo=_ROWS)
