"""Teacher scores, fetched once into the run's folder in parts, so that a killed run resumes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from darl_opensearch.errors import InputError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.writing import write_file, write_lines
from trainer.teachers.base import Teacher, TeacherRequest

ABOUT, AT_ONCE = "teacher.json", 64  # queries per part


def fetch_scores(
    teacher: Teacher,
    requests: Sequence[TeacherRequest],
    folder: Path,
    *,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> list[list[float | None]]:
    """Fetch a teacher's scores, as far as they are missing from the folder.

    :param requests: queries with their items, always the same for a folder.
    :param advance: called with queries done and queries in all.
    :return: scores of each query's items.
    :raises InputError: if the folder has scores from another teacher, or for other pairs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"identity": teacher.identity(), "queries": len(requests)})
    if not (folder / ABOUT).is_file():
        write_file(folder / ABOUT, about, fixed_name=True)
    elif (folder / ABOUT).read_text(encoding="utf-8") != about:
        raise _other(folder / ABOUT)
    all_scores: list[list[float | None]] = []
    with ThreadPoolExecutor(max(1, teacher.workers), thread_name_prefix="darl-teacher") as pool:
        for number, chunk in enumerate(_chunks(requests)):
            part = folder / f"part-{number:05d}.jsonl"
            if not part.is_file():
                chunk_scores = list(pool.map(teacher.score, chunk))
                write_lines(part, map(_line, chunk, chunk_scores), fixed_name=True)
            all_scores += _read(part, chunk)
            advance(len(all_scores), len(requests))
    return all_scores


def _line(request: TeacherRequest, scores: list[float | None]) -> str:
    row = {"query_id": request.query_id, "items": request.item_ids, "scores": scores}
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _chunks(requests: Sequence[TeacherRequest]) -> Iterator[list[TeacherRequest]]:
    remaining = iter(requests)
    while chunk := list(itertools.islice(remaining, AT_ONCE)):
        yield chunk


def _read(part: Path, chunk: Sequence[TeacherRequest]) -> Iterator[list[float | None]]:
    rows = [row for _, row in read_jsonl(part)]
    stored = [(str(row.get("query_id")), tuple(row.get("items") or ())) for row in rows]
    if stored != [(request.query_id, request.item_ids) for request in chunk]:
        raise _other(part)
    yield from (row["scores"] for row in rows)


def _other(path: Path) -> InputError:
    return InputError(
        "these scores are from another teacher or for other pairs", where=str(path),
        todo="choose another folder with --run, or pass --fresh to start over",
    )  # fmt: skip
