"""A teacher that has already spoken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import sha256_of
from darl_opensearch.errors import InputError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.text import same_text
from trainer.teachers.base import TEACHERS, Ask, Place


@TEACHERS.register("file", cite="ours")
class FileTeacher:
    """Scores from a JSONL file: query_id or query, item_id, score.

    :param place: folder it is relative to.
    :raises InputError: naming the line that cannot be used.
    """

    workers = 1

    def __init__(self, target: str, place: Place) -> None:
        self.path = place.base / target
        self._scores: dict[tuple[str, str, str], float] = {}
        for where, row in read_jsonl(self.path):
            self._read(row, where)
        if not self._scores:
            raise InputError("there is no score in it", where=str(self.path), todo="write one JSON object a line")

    def identity(self) -> str:
        """Digest of the file.

        :return: 64 hexadecimal digits.
        """
        return sha256_of(Path(self.path))

    def score(self, ask: Ask) -> list[float | None]:
        """Look the items of one query up: by its id, else by its text.

        :return: ``n`` scores; None where the file has none.
        """
        text = same_text(ask.query)
        return [
            self._scores.get(("id", ask.query_id, item_id), self._scores.get(("text", text, item_id)))
            for item_id in ask.item_ids
        ]

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, row: dict[str, Any], where: str) -> None:
        item_id, score = row.get("item_id"), row.get("score")
        if item_id is None or str(item_id) == "":
            raise InputError("field 'item_id' is missing", where=where, todo="name the scored item")
        if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
            raise InputError("field 'score' is not a number", where=where, todo="give the teacher's score")
        keys = []
        if row.get("query_id"):
            keys.append(("id", str(row["query_id"]), str(item_id)))
        if isinstance(row.get("query"), str) and row["query"].strip():
            keys.append(("text", same_text(row["query"]), str(item_id)))
        if not keys:
            raise InputError("neither 'query_id' nor 'query' is there", where=where, todo="name the query")
        for key in keys:
            if self._scores.setdefault(key, float(score)) != float(score):
                raise InputError(
                    f"the pair of query {key[1]!r} and item {key[2]!r} has another score before",
                    where=where,
                    todo="keep one score a pair",
                )
