"""Judges that look up existing labels: files of judgments, judgment lists, clicks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from darl_opensearch.errors import InputError, UsageError, short
from darl_opensearch.io.sqlite import sqlite_errors
from darl_opensearch.records.lines import LineKind, two_grades
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import setting
from trainer.data.importers import IMPORTERS, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.search_relevance import Answers
from trainer.data.importers.ubi import ClickRules
from trainer.judging.base import JUDGES, Answer, JudgeAnswers, JudgingJob, Report, Task
from trainer.judging.tasks import task_id

_CUTS = "cut points between grades, for ratings that are not grades: 0.5,1.5"


@JUDGES.register("judgments", cite="ours")
@dataclass(frozen=True, kw_only=True)
class KnownJudge:
    """Existing judgments in the trainer's own format."""

    people: ClassVar[bool] = False
    free: ClassVar[bool] = True
    path: str = setting("", "JSONL with query, item_id and grade")

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Look the pairs up.

        :raises InputError: for a broken line, or a pair with two grades.
        """
        path = _file(job, self.path, "judgments", "path")
        wanted = {task.task for task in tasks}
        answers: dict[str, Answer] = {}
        grades: dict[str, tuple[int, str]] = {}
        judgments = 0
        for line in LineKind(k=job.scale.k, may_be_empty=True).read(path):
            judgments += 1
            if (name := task_id(line.query, line.item_id)) not in wanted:
                continue
            before, first = grades.setdefault(name, (line.grade, line.where))
            if before != line.grade:
                raise two_grades(line, before, first)
            answers[name] = Answer(line.grade, _probs(line.row, job.scale.k, line.where))
        report("found", len(answers), len(tasks))
        return JudgeAnswers({"": answers}, counts={"file": str(path), "judgments_in_the_file": judgments})


@JUDGES.register("workbench", cite="https://docs.opensearch.org/latest/search-plugins/search-relevance/judgments/")
@dataclass(frozen=True, kw_only=True)
class WorkbenchJudge:
    """Judgment lists of the Search Relevance Workbench: imported, by an LLM, or from clicks."""

    people: ClassVar[bool] = False
    free: ClassVar[bool] = True
    path: str = setting("", "judgment lists of the Search Relevance Workbench, JSON or JSONL")
    list: str = setting("", "name or id of the judgment list to use; empty: all")
    cuts: str = setting("", _CUTS)
    answers: Answers = "keep"

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Look the pairs up.

        :raises InputError: for a broken list, or a rating that is no grade.
        """
        path = _file(job, self.path, "workbench", "path")
        importer = _importer("search-relevance", job.scale, list=self.list, cuts=self.cuts, answers=self.answers)
        notes: list[str] = []

        def rate(store: Gathering) -> Mapping[str, int]:
            counts: Mapping[str, int]
            files = ImportFiles({"judgments": path})
            counts, said = importer.rate(files, store)
            notes.extend((*said, *files.notes()))
            return counts

        answers, counts = _gather(rate, tasks, job.scale, path)
        report("found", len(answers), len(tasks))
        return JudgeAnswers({"": answers}, counts={"file": str(path), **counts}, notes=tuple(notes))


@JUDGES.register(
    "ubi", cite="COEC: Zhang and Jones 2007 (Query Log Analysis workshop, WWW); schema: https://github.com/o19s/ubi 1.3"
)
@dataclass(frozen=True, kw_only=True)
class UbiJudge(ClickRules):
    """Clicks of User Behavior Insights, as weak grades by clicks over expected clicks (COEC)."""

    people: ClassVar[bool] = False
    free: ClassVar[bool] = True
    queries: str = setting("", "export of ubi_queries")
    events: str = setting("", "export of ubi_events")
    cuts: str = setting("0.5,1.5", "cut points between grades, in clicks over expected clicks")

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Count clicks and look the pairs up.

        :raises InputError: for a broken export, or one without clicks.
        """
        paths = {name: _file(job, getattr(self, name), "ubi", name) for name in ("queries", "events")}
        importer = _importer(
            "ubi", job.scale, cuts=self.cuts, min_impressions=self.min_impressions, max_rank=self.max_rank,
            shown_by=self.shown_by, shown_actions=self.shown_actions, click_actions=self.click_actions,
        )  # fmt: skip
        files = ImportFiles(paths)
        answers, counts = _gather(lambda store: importer.count(files, store), tasks, job.scale, paths["events"])
        report("found", len(answers), len(tasks))
        notes = ("Grades from clicks are weak: see docs/data.md.", *files.notes())
        return JudgeAnswers({"": answers}, counts={"weak": True, **counts}, notes=notes)


def _importer(name: str, scale: GradeScale, **params: Any) -> Any:
    labels = "" if any("," in label for label in scale.names) else ",".join(scale.names)
    make, values = IMPORTERS.resolve(name, {"labels": labels, **params})
    return make(**values)


def _gather(
    read: Callable[[Gathering], Mapping[str, int]], tasks: Sequence[Task], scale: GradeScale, path: Path
) -> tuple[dict[str, Answer], Mapping[str, int]]:
    """Run an importer into a temporary SQLite file: an export may be larger than memory."""
    wanted = {task.task for task in tasks}
    answers: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory(prefix="darl-judge-") as scratch:
        todo = "free space on the disk that TMPDIR names"
        with (
            sqlite_errors("the temporary database failed", where=scratch, todo=todo),
            Gathering(Path(scratch) / "judge.sqlite") as store,
        ):
            counts = dict(read(store), judgments_in_the_file=0)
            for query, item_id, grade in store.judgments():
                counts["judgments_in_the_file"] += 1
                if (name := task_id(query, item_id)) in wanted:
                    if grade >= scale.k:
                        what = f"query {short(query)} and item {short(item_id)} have grade {grade} of {scale.k}"
                        raise InputError(what, where=str(path), todo="set the judge's cuts")
                    if answers.setdefault(name, Answer(grade)).grade != grade:
                        what = f"query {short(query)} and item {short(item_id)} have two grades"
                        raise InputError(what, where=str(path), todo="choose one list with the judge's parameter list")
    return answers, counts


def _file(job: JudgingJob, given: str, judge: str, name: str) -> Path:
    if not given:
        raise UsageError(f"judge {judge!r} has no file", todo=f"set {judge}.{name}")
    return job.base / given


def _probs(row: Mapping[str, Any], k: int, where: str) -> tuple[float, ...] | None:
    value = row.get("grade_probs")
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == k and all(
        isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p < 2 for p in value
    )  # fmt: skip
    if not good or abs(sum(value) - 1.0) > 1e-3:
        raise InputError(f"field 'grade_probs' is {short(value)}", where=where, todo=f"give {k} that sum to 1")
    return tuple(float(p) for p in value)
