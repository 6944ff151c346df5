"""Task files and gold: reading, mixing, and an order that reveals nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.digest import digest_data
from darl_opensearch.records.lines import DataLine, LineKind, changed_query, pair_twice, two_grades
from darl_opensearch.records.values import parse_id
from darl_opensearch.scores import GradeScale
from darl_opensearch.text import same_text
from trainer.judging.base import Task

ARMS = ("selected", "control", "gold")
_OWN = frozenset(field.name for field in dataclasses.fields(Task))


@dataclasses.dataclass(frozen=True)
class Gold:
    """Pairs with known grades.

    :param tasks: the pairs; their arm is ``gold``.
    :param grades: by task.
    """

    tasks: tuple[Task, ...]
    grades: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.tasks)


def task_id(query: str, item_id: str) -> str:
    """Identify a pair by 16 hexadecimal digits.

    :param query: the query's text; case and runs of blanks do not count.
    """
    return digest_data(f"{same_text(query)}\n{item_id}")[:16]


def read_tasks(paths: Sequence[Path]) -> list[Task]:
    """Read task files, in order.

    :param paths: JSONL, one pair per line: query, item_id and text; optionally query_id, task, slice, arm,
        information_need, image and others.
    :raises InputError: for a broken line, a repeated pair, a query id with two texts, or an empty file.
    """
    tasks: dict[str, Task] = {}
    texts: dict[str, str] = {}
    for line in LineKind(what="task", text="required").read(*paths):
        task = _task(line)
        if (before := tasks.get(task.task)) is not None:
            raise pair_twice(line, before.where)
        if (text := texts.setdefault(task.query_id, task.query)) != task.query:
            raise changed_query(line, text)
        tasks[task.task] = task
    return list(tasks.values())


def read_gold(path: Path, scale: GradeScale, texts: Mapping[str, str]) -> Gold:
    """Read judgments with known grades, in order.

    :param path: JSONL: query, item_id and grade; optionally query_id, slice, text, information_need and image.
    :param texts: item texts by id, for lines without ``text``.
    :raises InputError: for a broken line, an unknown grade, an item without text, or a pair with two grades.
    """
    tasks: dict[str, Task] = {}
    grades: dict[str, int] = {}
    for line in LineKind(text="required", texts=texts, k=scale.k).read(path):
        task = _task(dataclasses.replace(line, row={**line.row, "arm": "gold", "task": None}))
        if (grade := grades.setdefault(task.task, line.grade)) != line.grade:
            raise two_grades(line, grade, tasks[task.task].where)
        tasks.setdefault(task.task, task)
    return Gold(tuple(tasks.values()), grades)


def draw_gold(gold: Gold, tasks: Sequence[Task], pairs: int, seed: int) -> Gold:
    """Sample gold to mix among tasks, with as many items per query as theirs, without pairs to be judged anyway."""
    task_ids = {task.task for task in tasks}
    queries: dict[str, list[Task]] = {}
    for task in gold.tasks:
        if task.task not in task_ids:
            queries.setdefault(same_text(task.query), []).append(task)
    names = list(queries)
    # More items per query than elsewhere would give gold away, and more queries make the interval narrower.
    most = int(np.median(list(Counter(same_text(task.query) for task in tasks).values())))
    rng = np.random.default_rng((seed, 1))
    drawn: list[Task] = []
    for place in rng.permutation(len(names)):
        of_query = queries[names[place]]
        chosen = [of_query[n] for n in sorted(rng.permutation(len(of_query))[:most])]
        drawn += chosen[: pairs - len(drawn)]
    return Gold(tuple(drawn), {task.task: gold.grades[task.task] for task in drawn})


def order_blindly(tasks: Sequence[Task], seed: int) -> list[Task]:
    """Shuffle queries, and items within each, so that positions reveal neither scores nor gold."""
    queries: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.task):  # by a hash: the order of the file does not count
        queries.setdefault(same_text(task.query), []).append(task)
    rng = np.random.default_rng((seed, 2))
    names = sorted(queries)
    ordered: list[Task] = []
    for place in rng.permutation(len(names)):
        of_query = queries[names[place]]
        ordered += [of_query[n] for n in rng.permutation(len(of_query))]
    return ordered


def _task(line: DataLine) -> Task:
    row, where = line.row, line.where
    arm = parse_id(row, "arm", where) or "selected"
    if arm not in ARMS:
        raise InputError(f"field 'arm' is {short(arm)}", where=where, todo=f"choose one of {', '.join(ARMS)}")
    name = task_id(line.query, line.item_id)
    if (given := row.get("task")) not in (None, "", name):
        raise InputError(
            f"field 'task' is {short(given)}, but this query and item give {name!r}",
            where=where,
            todo="omit the field, or have darl select write the file again",
        )
    others = {key: value for key, value in row.items() if key not in _OWN and value is not None}
    text = (line.text or "").strip()
    need, image = (parse_id(row, shown, where).strip() for shown in ("information_need", "image"))
    return Task(name, line.query_key, line.query, line.item_id, text, line.slice, arm, need, image, others, where)
