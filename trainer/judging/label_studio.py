"""Judge ``label-studio``: people at Label Studio, by a file to import there and the export of their answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from xml.sax.saxutils import quoteattr

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.reading import reading
from darl_opensearch.io.writing import write_file
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import setting
from trainer.judging.base import JUDGES, Answer, JudgeAnswers, JudgingJob, Report, Task
from trainer.judging.grades import grade_key, list_grade_choices

SKIP = "skip"
_NAME = "grade"  # of the choices in the labelling interface
_EXPORT = "export it from Label Studio as JSON, not as JSON-MIN or CSV"


@JUDGES.register("label-studio", cite="https://labelstud.io/guide/task_format")
@dataclass(frozen=True, kw_only=True)
class LabelStudioJudge:
    """People at Label Studio, each a rater of their own."""

    people: ClassVar[bool] = True
    free: ClassVar[bool] = False
    path: str = setting("", "Label Studio's export, JSON; empty: label-studio-export.json in the work folder")

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Write tasks and labelling interface, or read the export.

        :param job: grades, guideline and work folder.
        :return: by rater; pending until each task has an answer.
        :raises InputError: for an export of something else, or an answer that is no grade, naming file and task.
        """
        to_import, interface = job.file("label-studio-tasks", ".json"), job.file("label-studio", ".xml")
        if not to_import.exists():
            write_file(to_import, json.dumps([_data(task) for task in tasks], ensure_ascii=False, indent=1) + "\n")
        if not interface.exists():
            write_file(interface, render_interface(tasks, job.scale))
        export = job.base / self.path if self.path else job.file("label-studio-export", ".json")
        answers = read_export(export, tasks, job.scale) if export.exists() else {}
        missing = len(tasks) - len(set().union(*answers.values()))
        report("answered", len(tasks) - missing, len(tasks))
        note = (
            f"{missing:,} answers are missing: import {to_import} into a Label Studio project with {interface} as its "
            f"labelling interface, export it as JSON to {export}, then run the same command again"
        )
        return JudgeAnswers(answers, missing > 0, {"file": str(export)}, (note,) if missing else ())


def render_interface(tasks: Sequence[Task], scale: GradeScale) -> str:
    """Write the labelling interface: the pair, and one choice per grade, with the keys of ``darl judge --web``.

    An image is shown only if every task has one: Label Studio reports a missing one as an error.
    """
    choices = [
        f'    <Choice value={quoteattr(name)} alias="{grade}"'
        + (f' hotkey="{key}"/>' if (key := grade_key(grade)) else "/>")
        for grade, name in enumerate(scale.names)
    ]
    need = [
        '  <Header value="Information need" size="5"/>', '  <Text name="information_need" value="$information_need"/>',
    ]  # fmt: skip
    lines = [
        "<View>",
        '  <Header value="Query" size="5"/>',
        '  <Text name="query" value="$query"/>',
        *(need if any(task.information_need for task in tasks) else ()),
        '  <Header value="Item" size="5"/>',
        *(['  <Image name="image" value="$image"/>'] if all(task.image for task in tasks) else ()),
        '  <Text name="item" value="$item"/>',
        f'  <Choices name="{_NAME}" toName="item" choice="single" showInline="true" required="true">',
        *choices,
        f'    <Choice value="cannot be judged" alias="{SKIP}" hotkey="s"/>',
        "  </Choices>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def read_export(path: Path, tasks: Sequence[Task], scale: GradeScale) -> dict[str, dict[str, Answer]]:
    """Read the answers of an export.

    :param path: JSON, as Label Studio exports it: a list of tasks with their annotations.
    :return: answers by rater and task; an annotation that was skipped there is a skipped pair.
    :raises InputError: for another file, an unknown task, an answer that is no grade, or two grades of one rater.
    """
    names = {task.task for task in tasks}
    answers: dict[str, dict[str, Answer]] = {}
    for where, data, annotation in _annotations(path):
        task = data.get("task")
        if task not in names:
            raise InputError(
                f"task {short(task)} is not one of these tasks",
                where=where,
                todo="export the project of this work folder",
            )
        rater = _rater(annotation.get("completed_by"))
        if (answer := _answer(annotation, scale, where)) is None:
            continue
        before = answers.setdefault(rater, {}).setdefault(str(task), answer)
        if before != answer:
            raise InputError(
                f"{rater} gives task {task} both {_shown(before)} and {_shown(answer)}", where=where,
                todo="delete one of the two annotations in Label Studio, and export it again",
            )  # fmt: skip
    return answers


def _annotations(path: Path) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the place, the task's data, and each of its annotations."""
    with reading(path):
        text = path.read_bytes()
    try:
        exported = json.loads(text)
    except ValueError as err:
        raise InputError("not JSON", where=str(path), todo=_EXPORT) from err
    for number, task in enumerate(exported if isinstance(exported, list) else [exported], 1):
        where = f"{path}, task {number}"
        data = task.get("data") if isinstance(task, dict) else None
        annotations = task.get("annotations") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise InputError("not a task with data and annotations", where=where, todo=_EXPORT)
        for annotation in annotations:
            if not isinstance(annotation, dict):
                raise InputError("an annotation is not an object", where=where, todo=_EXPORT)
            yield where, data, annotation


def _answer(annotation: Mapping[str, Any], scale: GradeScale, where: str) -> Answer | None:
    """Read an annotation; None if nothing was chosen."""
    if annotation.get("was_cancelled"):
        return Answer(None)
    chosen = [
        choice
        for part in annotation.get("result") or ()
        if isinstance(part, dict) and part.get("from_name") == _NAME
        for choice in (part.get("value") or {}).get("choices") or ()
    ]
    if not chosen:
        return None
    if chosen == [SKIP]:
        return Answer(None)
    numbers = {str(grade): grade for grade in range(scale.k)}
    if len(chosen) != 1 or chosen[0] not in numbers:
        raise InputError(
            f"the answer {short(chosen)} is not a grade", where=where,
            todo=f"keep the labelling interface that was written, with {list_grade_choices(scale)}",
        )  # fmt: skip
    return Answer(numbers[chosen[0]])


def _data(task: Task) -> dict[str, Any]:
    """What Label Studio gets to see: nothing that a rater must not know."""
    data = {"task": task.task, "query": task.query, "information_need": task.information_need, "item": task.text}
    return {"data": data | ({"image": task.image} if task.image else {})}


def _rater(completed_by: Any) -> str:
    """Name a rater: Label Studio writes the number of the account, or the account with its number."""
    number = completed_by.get("id") if isinstance(completed_by, dict) else completed_by
    return f"user-{number}" if number is not None else "unknown"


def _shown(answer: Answer) -> str:
    return SKIP if answer.grade is None else str(answer.grade)
