"""The table that people fill: CSV that a spreadsheet neither executes nor corrupts, or JSONL."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, short
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.reading import reading
from darl_opensearch.io.writing import write_file, write_rows
from darl_opensearch.scores import GradeScale
from trainer.data.tables import guess_delimiter
from trainer.judging.base import Answer, Task
from trainer.judging.grades import list_grade_choices, parse_grade

COLUMNS = ("grade", "query", "item", "choices", "note", "task")
FURTHER = ("information_need", "image")  # columns that a table has if one of its tasks does
SKIP = ("skip", "-")  # marks of a pair that cannot be judged
_PREFIX = "t-"  # a spreadsheet would turn sixteen digits alone into 1.23E+15
_NAMED = 5  # further cells that an error names
_MOST = 32_000  # characters per cell; spreadsheets silently cut after 32,767
# Cells that a spreadsheet would read as formulas, with full-width signs (OWASP, "CSV Injection").
_FORMULA = re.compile(r"^[\s'\"]*[=+\-@＝＋－＠]")


def write_csv(path: Path, tasks: Sequence[Task], scale: GradeScale) -> None:
    """Write a table with an empty column for the grade."""
    text, further = io.StringIO(newline=""), _further(tasks)
    table = csv.writer(text, quoting=csv.QUOTE_ALL)
    table.writerow((*COLUMNS, *further))
    for task in tasks:
        cells = ["", safe_cell(task.query), safe_cell(task.text), list_grade_choices(scale), "", _PREFIX + task.task]
        table.writerow([*cells, *(safe_cell(getattr(task, name)) for name in further)])
    write_file(path, text.getvalue().encode("utf-8-sig"))  # the byte-order mark makes spreadsheets read UTF-8


def write_jsonl(path: Path, tasks: Sequence[Task], scale: GradeScale) -> None:
    """Write one line per pair, with a null grade."""
    further = _further(tasks)
    rows = (
        {"grade": None, "query": task.query, "item": task.text, "choices": list_grade_choices(scale), "note": "",
         "task": _PREFIX + task.task} | {name: getattr(task, name) for name in further}
        for task in tasks
    )  # fmt: skip
    write_rows(path, rows)


def _further(tasks: Sequence[Task]) -> list[str]:
    return [name for name in FURTHER if any(getattr(task, name) for task in tasks)]


def safe_cell(text: str) -> str:
    """Make a text safe for a cell: one line, with an apostrophe before anything a spreadsheet would run or convert."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) > _MOST:
        line = line[: _MOST - 1] + "…"
    return f"'{line}" if _FORMULA.match(line) else line


def read_sheet(path: Path, tasks: Sequence[Task], scale: GradeScale) -> dict[str, Answer]:
    """Read the grades filled in so far.

    :param path: CSV (with commas, semicolons or tabs, as spreadsheets vary by country) or JSONL.
    :return: answers by task, without rows that have no grade.
    :raises InputError: for an unknown grade or task, or a pair graded twice, naming file, line and field.
    """
    names = {task.task for task in tasks}
    answers: dict[str, Answer] = {}
    lines: dict[str, str] = {}
    invalid: list[tuple[str, str]] = []  # reported together, as hundreds of pairs often have several typos
    for where, row in read_jsonl(path) if path.suffix != ".csv" else _rows(path):
        task = str(row.get("task") or "").strip().removeprefix(_PREFIX)
        if task not in names:
            what = f"field 'task' is {short(row.get('task'))}, not one of these tasks" if task else "empty"
            todo = "leave that column unchanged" + (
                "; if the table belongs to earlier work, such as another cycle, move it away" if task else ""
            )
            raise InputError(what if task else "field 'task' is empty", where=where, todo=todo)
        if task in lines:
            raise InputError(
                f"field 'task': this pair appears twice (first: {lines[task]})", where=where,
                todo="delete one of the two rows",
            )  # fmt: skip
        lines[task] = where
        value = row.get("grade")
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        answer = _answer(value, str(row.get("note") or "").strip(), scale)
        if answer is None:
            invalid.append((where, short(value)))
        else:
            answers[task] = answer
    if invalid:
        raise _invalid_grades(invalid, scale)
    return answers


def _answer(value: Any, note: str, scale: GradeScale) -> Answer | None:
    grade = parse_grade(value, scale)
    if grade is None and isinstance(value, str) and value.strip().casefold() in SKIP:
        return Answer(None, note=note)
    return None if grade is None else Answer(grade, note=note)


def _invalid_grades(invalid: Sequence[tuple[str, str]], scale: GradeScale) -> InputError:
    """Make the error for invalid grades.

    :param invalid: where each is, and its value.
    """
    (where, value), *others = invalid
    also = [f"{value} in {place.rpartition(', ')[2]}" for place, value in others[:_NAMED]]
    also += [f"{len(others) - _NAMED:,} more"] if len(others) > _NAMED else []
    return InputError(
        f"field 'grade' is {value}, which is not a grade" + (f"; nor is {', '.join(also)}" if also else ""),
        where=where,
        todo=f"write a number or name of {list_grade_choices(scale)}, or {SKIP[0]} if the pair cannot be judged",
    )  # fmt: skip


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with reading(path):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise InputError(
            "not UTF-8", where=str(path), todo="save it as 'CSV UTF-8', or enter the grades as numbers in a new copy"
        ) from err
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=guess_delimiter(text.partition("\n")[0]), strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}, line {line}", reader.line_num + 1  # a quoted cell may span lines: name the first
            if not any(cell.strip() for cell in cells):
                continue  # a spreadsheet leaves empty rows behind
            if not header:
                header = [cell.strip().casefold() for cell in cells]
                for name in ("grade", "task"):
                    if header.count(name) != 1:
                        problem = "is missing" if name not in header else "appears twice"
                        raise InputError(f"column {name!r} {problem}", where=where, todo=f"keep {', '.join(COLUMNS)}")
                continue
            if len(cells) > len(header):
                raise InputError(
                    f"{len(cells)} cells for {len(header)} columns", where=where,
                    todo="quote the cells that hold the delimiter",
                )  # fmt: skip
            yield where, dict(zip(header, cells, strict=False))
    except csv.Error as err:
        raise InputError(f"not a table ({err})", where=f"{path}, line {line}", todo="save it as CSV again") from err
    if not header:
        raise InputError("the file is empty", where=str(path), todo="remove it to have it written again")
