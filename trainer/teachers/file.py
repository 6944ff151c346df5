"""A file of scores as teacher."""

from __future__ import annotations

import math

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.digest import digest_file
from darl_opensearch.records.lines import DataLine, LineKind
from darl_opensearch.text import same_text
from trainer.teachers.base import TEACHERS, TeacherFiles, TeacherRequest


@TEACHERS.register("file", cite="ours")
class FileTeacher:
    """Scores from a JSONL file: query_id or query, item_id, score.

    :raises InputError: naming the invalid line.
    """

    workers = 1

    def __init__(self, target: str, files: TeacherFiles) -> None:
        self.path = files.base / target
        self._scores: dict[tuple[str, str, str], float] = {}
        for line in LineKind(what="score", query="optional").read(self.path):
            self._read(line)

    def identity(self) -> str:
        """Return the digest of the file."""
        return digest_file(self.path)

    def score(self, request: TeacherRequest) -> list[float | None]:
        """Look up a query's items, by its id or else by its text; None for missing scores."""
        text = same_text(request.query)
        return [
            self._scores.get(("id", request.query_id, item_id), self._scores.get(("text", text, item_id)))
            for item_id in request.item_ids
        ]

    def close(self) -> None:
        """Do nothing: the file is closed already."""

    def _read(self, line: DataLine) -> None:
        score = line.row.get("score")
        if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
            raise InputError("field 'score' is not a number", where=line.where, todo="set it to the teacher's score")
        keys = [("id", line.query_id, line.item_id)] if line.query_id else []
        keys += [("text", same_text(line.query), line.item_id)] if line.query else []
        if not keys:
            raise InputError("the line has neither 'query_id' nor 'query'", where=line.where, todo="add the query")
        for key in keys:
            if self._scores.setdefault(key, float(score)) != float(score):
                raise InputError(
                    f"query {short(key[1])} and item {short(key[2])} already have another score",
                    where=line.where,
                    todo="keep one score per pair",
                )
