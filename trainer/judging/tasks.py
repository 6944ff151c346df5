"""Task files and gold: read, mixed and put into an order that gives nothing away."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from darl_opensearch.errors import InputError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.scores import GradeScale
from darl_opensearch.text import MAX_QUERY_CHARS, same_text
from trainer.data.judgments import name_of
from trainer.data.quoting import short
from trainer.judging.base import Task

ARMS = ("selected", "control", "gold")
_OWN = frozenset(field.name for field in dataclasses.fields(Task))


@dataclasses.dataclass(frozen=True)
class Gold:
    """Pairs whose grades are known.

    :param tasks: the pairs; their arm is ``gold``.
    :param grades: the grade of each, by task.
    """

    tasks: tuple[Task, ...]
    grades: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.tasks)


def task_id(query: str, item_id: str) -> str:
    """Name a pair.

    :param query: the query's text; case and runs of blanks do not count.
    :return: 16 hexadecimal digits.
    """
    return hashlib.sha256(f"{same_text(query)}\n{item_id}".encode()).hexdigest()[:16]


def read_tasks(paths: Sequence[Path]) -> list[Task]:
    """Read task files.

    :param paths: JSONL, a pair a line: query, item_id and text; query_id, task, slice, arm and others where given.
    :return: the tasks, in order.
    :raises InputError: for a broken line, a pair that is there twice, a query id with two texts, or nothing at all.
    """
    tasks: dict[str, Task] = {}
    texts: dict[str, str] = {}
    for path in paths:
        for where, row in read_jsonl(path):
            task = _parse(row, where)
            if (before := tasks.get(task.task)) is not None:
                raise InputError(
                    f"the pair of query {short(task.query)} and item {short(task.item_id)} is there twice "
                    f"(first: {before.where})",
                    where=where,
                    todo="keep one of the two",
                )
            if texts.setdefault(task.query_id, task.query) != task.query:
                raise InputError(
                    f"query {short(task.query_id)} reads {short(task.query)} here and "
                    f"{short(texts[task.query_id])} before",
                    where=where,
                    todo="give each query text its own query_id",
                )
            tasks[task.task] = task
    if not tasks:
        names = ", ".join(map(str, paths))
        raise InputError("there is no task in it", where=names, todo="let darl select choose some, or write them")
    return list(tasks.values())


def read_gold(path: Path, scale: GradeScale, texts: Mapping[str, str]) -> Gold:
    """Read judgments of pairs whose grades are known.

    :param path: JSONL: query, item_id and grade; query_id, slice and text where given.
    :param texts: item texts by id, for lines without a ``text``.
    :return: the gold, in order.
    :raises InputError: for a broken line, an unknown grade, an item without text, or a pair with two grades.
    """
    tasks: dict[str, Task] = {}
    grades: dict[str, int] = {}
    for where, row in read_jsonl(path):
        if not row.get("text") and (known := texts.get(name_of(row, "item_id"))):
            row = {**row, "text": known}
        task = _parse({**row, "arm": "gold", "task": None}, where)
        grade = row.get("grade")
        if not isinstance(grade, int) or isinstance(grade, bool) or not 0 <= grade < scale.k:
            raise InputError(
                f"field 'grade' is {short(grade)}, not a whole number in 0..{scale.k - 1}",
                where=where,
                todo="correct the line",
            )
        if grades.setdefault(task.task, grade) != grade:
            raise InputError(
                f"the pair of query {short(task.query)} and item {short(task.item_id)} has grade {grade} here and "
                f"{grades[task.task]} before (first: {tasks[task.task].where})",
                where=where,
                todo="keep one grade a pair",
            )
        tasks.setdefault(task.task, task)
    if not tasks:
        raise InputError("there is no judgment in it", where=str(path), todo="write one JSON object a line")
    return Gold(tuple(tasks.values()), grades)


def draw_gold(gold: Gold, tasks: Sequence[Task], pairs: int, seed: int) -> Gold:
    """Draw gold to mix among tasks, as many items a query as theirs have, leaving out pairs that are judged anyway.

    :param tasks: what is to be judged.
    """
    taken = {task.task for task in tasks}
    queries: dict[str, list[Task]] = {}
    for task in gold.tasks:
        if task.task not in taken:
            queries.setdefault(same_text(task.query), []).append(task)
    names = list(queries)
    # A query with more items than any other would be known for gold; and many queries make a narrow interval.
    most = int(np.median(list(Counter(same_text(task.query) for task in tasks).values())))
    rng = np.random.default_rng((seed, 1))
    drawn: list[Task] = []
    for place in rng.permutation(len(names)):
        found = queries[names[place]]
        chosen = [found[n] for n in sorted(rng.permutation(len(found))[:most])]
        drawn += chosen[: pairs - len(drawn)]
    return Gold(tuple(drawn), {task.task: gold.grades[task.task] for task in drawn})


def blind_order(tasks: Sequence[Task], seed: int) -> list[Task]:
    """Shuffle queries, and the items within each: no place says what a model thought, or which pairs are gold.

    :return: all of them, those of one query text side by side.
    """
    queries: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.task):  # by a hash: the order of the file does not count
        queries.setdefault(same_text(task.query), []).append(task)
    rng = np.random.default_rng((seed, 2))
    names = sorted(queries)
    ordered: list[Task] = []
    for place in rng.permutation(len(names)):
        found = queries[names[place]]
        ordered += [found[n] for n in rng.permutation(len(found))]
    return ordered


def digest(*parts: object) -> str:
    """Digest what a job consists of.

    :return: 64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _parse(row: Mapping[str, Any], where: str) -> Task:
    query, text = (_text(row, name, where) for name in ("query", "text"))
    if len(query) > MAX_QUERY_CHARS:
        raise InputError(
            f"field 'query' has {len(query):,} characters, more than {MAX_QUERY_CHARS:,}",
            where=where,
            todo="give what was typed into the search box",
        )
    item_id = name_of(row, "item_id")
    if not item_id:
        raise InputError("field 'item_id' is missing", where=where, todo="name the item")
    arm = name_of(row, "arm") or "selected"
    if arm not in ARMS:
        raise InputError(f"field 'arm' is {short(arm)}", where=where, todo=f"choose one of {', '.join(ARMS)}")
    name = task_id(query, item_id)
    if (given := row.get("task")) not in (None, "", name):
        raise InputError(
            f"field 'task' is {short(given)}, but this query and item make {name!r}",
            where=where,
            todo="leave the field out, or let darl select write the file again",
        )
    told = {key: value for key, value in row.items() if key not in _OWN and value is not None}
    query_id = name_of(row, "query_id") or query
    return Task(name, query_id, query, item_id, text, name_of(row, "slice"), arm, told, where)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        todo = "give the words that were searched" if name == "query" else "give the item's text, or its items file"
        raise InputError(f"field {name!r} is empty or not text", where=where, todo=todo)
    return value.strip()
