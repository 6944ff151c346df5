"""Reading a grade and its probabilities from a reply."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from darl_opensearch.scores import GradeScale
from trainer.judging.grades import is_numbered, parse_grade

ENOUGH_MASS = 0.5  # minimum probability of the listed grades; below it the model meant something else
# With its sign: many models write -1 if they cannot tell, which is not 1.
_NUMBER = re.compile(r"(?:(?<!\w)[-\u2212\u2013])?(?<![\w.])\d+(?:\.0+)?(?![\w.]*\d)(?!,\d)")
_BEFORE = re.compile(r"grade\W{0,8}\Z", re.IGNORECASE)  # what stands before a number that is called the grade
_RANGE = re.compile(
    r"\s*[-\u2212\u2013~]\s*\d|\s+(?:to|or)\s+\d", re.IGNORECASE
)  # and behind one of several: 0-3, 1 or 2
_AROUND = " \t\r\n.*`'\"()[]"


@dataclass(frozen=True)
class Token:
    """A token of a reply.

    :param top: natural log probabilities of the candidate tokens at its position.
    """

    text: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Reply:
    """An endpoint's answer.

    :param tokens: None if the endpoint returns no probabilities.
    """

    text: str
    tokens: tuple[Token, ...] | None
    prompt_tokens: int
    completion_tokens: int


def read_grade(text: str, scale: GradeScale) -> tuple[int, int] | None:
    """Read the grade in a reply.

    :param text: the grade alone, ``grade: 2`` in words or JSON, or a sentence with one number.
    :return: the grade and its position in the text; None without a grade, or with several.
    """
    bare = text.strip(_AROUND)
    if (grade := parse_grade(bare, scale)) is not None:
        return grade, text.index(bare)
    numbers = list(_NUMBER.finditer(text))
    named = [m for m in numbers if _BEFORE.search(text, max(0, m.start() - 16), m.start())]
    for matches in (named, numbers):
        if any(_RANGE.match(text, match.end()) for match in matches):
            return None
        if len({match[0] for match in matches}) == 1 and (grade := parse_grade(matches[0][0], scale)) is not None:
            return grade, matches[0].start()
    return None


def read_probs(reply: Reply, scale: GradeScale) -> tuple[float, ...] | None:
    """Read the probabilities of the grades at the position of the grade.

    :return: ``k`` probabilities among the listed grades; None without tokens, for a grade of several tokens, or if most
        of the probability lies elsewhere.
    """
    labels = scale.names if is_numbered(scale) else tuple(map(str, range(scale.k)))
    grade_at = read_grade(reply.text, scale)
    if reply.tokens is None or grade_at is None or any(len(label) > 1 for label in labels):
        return None
    token = _at(reply.tokens, reply.text, grade_at[1])
    if token is None:
        return None
    mass = [0.0] * scale.k
    for text, log in token.top:
        grade = parse_grade(text.strip(_AROUND), scale)
        if grade is not None:
            mass[grade] += math.exp(min(log, 0.0))
    total = sum(mass)
    if total < ENOUGH_MASS or mass[grade_at[0]] == 0.0:
        return None
    return tuple(value / total for value in mass)


def average_grades(grades: Sequence[int], k: int) -> tuple[float, ...]:
    """Convert several sampled grades to probabilities.

    :param grades: one or more.
    """
    return tuple(grades.count(grade) / len(grades) for grade in range(k))


def _at(tokens: Sequence[Token], text: str, place: int) -> Token | None:
    """Find the token at a position of the text, if the tokens spell the text."""
    if "".join(token.text for token in tokens)[: len(text)] != text:
        return None
    end = 0
    for token in tokens:
        end += len(token.text)
        if place < end:
            return token
    return None
