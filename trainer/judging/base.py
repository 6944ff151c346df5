"""The interface of judges, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from darl_opensearch.scores import GradeScale, grade_of
from trainer.registry import Registry

Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Task:
    """A pair to be judged. Judges must not see :attr:`other_fields`.

    :param task: 16 hexadecimal digits that identify query text and item.
    :param slice: traffic slice, or ``""``.
    :param arm: ``selected``, ``control`` or ``gold``.
    :param information_need: what the person who typed the query wants, in a sentence or two; ``""``: not known.
    :param image: of the item: a URL, or a file name in the folder of images; ``""``: none.
    :param other_fields: of the task line, such as the model's score.
    """

    task: str
    query_id: str
    query: str
    item_id: str
    text: str
    slice: str = ""
    arm: str = "selected"
    information_need: str = ""
    image: str = ""
    other_fields: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Answer:
    """A judge's answer about a pair.

    :param grade: in ``0..k-1``; None if skipped on purpose.
    :param grade_probs: ``k`` probabilities that sum to 1, or None for a judge that gives only a grade.
    :param note: a remark, or ``""``.
    """

    grade: int | None
    grade_probs: tuple[float, ...] | None = None
    note: str = ""

    @classmethod
    def of(cls, grade_probs: Sequence[float]) -> Answer:
        """Make an answer of ``k`` probabilities; its grade is the most probable one, the lower of a tie."""
        return cls(int(grade_of([grade_probs])[0]), tuple(float(p) for p in grade_probs))


@dataclass(frozen=True)
class JudgingJob:
    """What to judge, by which guideline, and the work folder.

    :param guideline: Markdown that defines each grade; may be empty.
    :param base: folder that paths in parameters are relative to.
    :param label: part of the judge's name after the colon, or ``""``.
    """

    scale: GradeScale
    guideline: str
    out: Path
    base: Path
    label: str = ""

    def file(self, stem: str, suffix: str) -> Path:
        """Name a file of this judge, different for each label.

        :param suffix: with the dot.
        """
        return self.out / f"{stem}{'.' + self.label if self.label else ''}{suffix}"


@dataclass(frozen=True)
class JudgeAnswers:
    """The answers of a judge.

    :param answers: by rater (``""`` for a single one), then by task.
    :param notes: for the reader, one line each.
    """

    answers: Mapping[str, Mapping[str, Answer]]
    pending: bool = False
    counts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Judge(Protocol):
    """Grades pairs. Its parameters are the fields of a frozen dataclass.

    :param people: its answers come from people, and later: gold is mixed into their tasks, and they may be unscored.
    :param free: its answers cost nothing, so that all of the gold can be used.
    """

    people: ClassVar[bool]
    free: ClassVar[bool]

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Answer as many tasks as possible.

        :param tasks: in judging order.
        :param job: grades, guideline and work folder.
        :param report: called with the step's name, items done and items in all.
        :raises DarlError: if the judge cannot work at all.
        """
        ...


JUDGES: Registry[type[Any]] = Registry("judge")
