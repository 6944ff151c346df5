"""Judge ``file``: people fill a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from darl_opensearch.io.writing import write_file
from darl_opensearch.settings import setting
from trainer.judging.base import JUDGES, JudgeAnswers, JudgingJob, Report, Task
from trainer.judging.grades import list_grade_choices
from trainer.judging.sheet import SKIP, read_sheet, write_csv, write_jsonl


@JUDGES.register("file", cite="ours")
@dataclass(frozen=True, kw_only=True)
class FileJudge:
    """People who fill a table: CSV for a spreadsheet, or JSONL."""

    people: ClassVar[bool] = True
    free: ClassVar[bool] = False
    path: str = setting("", "path of the table; empty: tasks.csv in the work folder")
    format: Literal["csv", "jsonl"] = setting("csv", "format of the table")

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Write the table, or read its answers so far.

        :param job: grades, guideline and work folder.
        :return: the answers; pending while some are missing.
        :raises InputError: for an invalid answer, naming file, line and field.
        """
        path = job.base / self.path if self.path else job.file("tasks", f".{self.format}")
        if not path.exists():
            (write_csv if path.suffix == ".csv" else write_jsonl)(path, tasks, job.scale)
        _write_instructions(path.with_name(f"{path.stem}-instructions.md"), path, job)
        answers = read_sheet(path, tasks, job.scale)
        report("answered", len(answers), len(tasks))
        missing = len(tasks) - len(answers)
        notes = (f"{path} has {missing:,} grades missing: fill them in, then run the same command again",)
        return JudgeAnswers({"": answers}, missing > 0, {"file": str(path)}, notes if missing else ())


def _write_instructions(path: Path, table: Path, job: JudgingJob) -> None:
    if path.exists():
        return
    lines = [
        f"# How to fill {table.name}",
        "",
        f"1. Read the query and the item. Write one of **{list_grade_choices(job.scale)}** into `grade`: "
        "the number or the name.",
        f"2. If a pair cannot be judged, write `{SKIP[0]}`. Empty cells are still to be done.",
        "3. Use `note` as you like. Leave the column `task` unchanged; the order of the rows does not matter.",
        "4. Save it under the same name (in a spreadsheet as CSV UTF-8), as often as you like. Partially filled "
        "tables are fine.",
        "",
        *(["# Guideline", "", job.guideline.strip(), ""] if job.guideline.strip() else []),
    ]
    write_file(path, "\n".join(lines))
