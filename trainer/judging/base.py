"""What a judge is given, what it answers, and the list of all of them."""

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
    """A pair to be judged. What a judge must not see is in :attr:`told`.

    :param task: 16 hexadecimal digits, the same for the same query text and item.
    :param slice: the part of traffic it belongs to, or ``""``.
    :param arm: ``selected``, ``control`` or ``gold``.
    :param told: the task line's other fields, such as the model's score.
    """

    task: str
    query_id: str
    query: str
    item_id: str
    text: str
    slice: str = ""
    arm: str = "selected"
    told: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Answer:
    """What a judge says about a pair.

    :param grade: in ``0..k-1``; None where it was passed over on purpose.
    :param grade_probs: ``k`` probabilities that sum to 1, or None where the judge gives a grade alone.
    :param note: what it remarked, or ``""``.
    """

    grade: int | None
    grade_probs: tuple[float, ...] | None = None
    note: str = ""

    @classmethod
    def of(cls, grade_probs: Sequence[float]) -> Answer:
        """Make an answer of probabilities.

        :param grade_probs: ``k`` of them.
        :return: the answer, its grade the most probable one, ties to the lower.
        """
        return cls(int(grade_of([grade_probs])[0]), tuple(float(p) for p in grade_probs))


@dataclass(frozen=True)
class JudgingJob:
    """What is to be judged, by which rules, and where the work lies.

    :param guideline: Markdown that says what each grade means; may be empty.
    :param base: folder that paths in parameters are relative to.
    :param label: what follows the colon in the judge's name, or ``""``.
    """

    scale: GradeScale
    guideline: str
    out: Path
    base: Path
    label: str = ""

    def file(self, stem: str, suffix: str) -> Path:
        """Name a file of this judge's.

        :param suffix: of its name, with the dot.
        :return: its path, different for each label.
        """
        return self.out / f"{stem}{'.' + self.label if self.label else ''}{suffix}"


@dataclass(frozen=True)
class JudgeAnswers:
    """What a judge answered.

    :param answers: by rater (``""`` where there is but one), then by task.
    :param notes: what the reader should know, a line each.
    """

    answers: Mapping[str, Mapping[str, Answer]]
    pending: bool = False
    counts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Judge(Protocol):
    """Grades pairs. Its parameters are the fields of a frozen dataclass.

    :param people: its answers are people's: they come later, gold is mixed among their tasks, and they may be used
        unscored.
    :param free: its answers cost nothing, so that all the gold there is can be asked of it.
    """

    people: ClassVar[bool]
    free: ClassVar[bool]

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Answer what can be answered.

        :param tasks: in the order in which they should be judged.
        :param job: grades, guideline and place.
        :param report: called with what is done, how many, and how many in all.
        :raises DarlError: when it cannot work at all.
        """
        ...


JUDGES: Registry[type[Any]] = Registry("judge")
