"""Grades as people and models write them: by number or name."""

from __future__ import annotations

from darl_opensearch.scores import GradeScale


def list_grade_choices(scale: GradeScale) -> str:
    """List the valid answers: ``0 irrelevant / 1 related / 2 fits``."""
    if is_numbered(scale):
        return " / ".join(scale.names)
    return " / ".join(f"{grade} {name}" for grade, name in enumerate(scale.names))


def parse_grade(value: object, scale: GradeScale) -> int | None:
    """Parse a grade; None if invalid.

    If the names are numbers themselves, such as stars from 1 to 5, a number is read as a name.

    :param value: ``2``, ``"2"``, ``"2.0"`` (as a spreadsheet writes it), ``"fits"`` or ``"2 fits"``; case and runs of
        blanks do not count.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = _fold(str(value))
    names = [_fold(name) for name in scale.names]
    if names.count(text) == 1:
        return names.index(text)
    if is_numbered(scale):
        by_number = {float(name): grade for grade, name in enumerate(names)}
        number = _number(text)
        return None if number is None else by_number.get(number)
    if (grade := _grade(text, scale.k)) is not None:
        return grade
    number_text, _, name = text.partition(" ")
    grade = _grade(number_text, scale.k)
    return grade if grade is not None and names[grade] == name else None


def grade_key(grade: int) -> str:
    """Return the key that gives a grade: 1 to 9, then 0; ``""`` for those beyond."""
    return str((grade + 1) % 10) if grade < 10 else ""


def is_numbered(scale: GradeScale) -> bool:
    """Whether the grades' names are numbers."""
    return all(_number(_fold(name)) is not None for name in scale.names)


def _grade(text: str, k: int) -> int | None:
    number = _number(text)
    return int(number) if number is not None and number in range(k) else None


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _number(text: str) -> float | None:
    try:
        return float(text) if len(text) < 20 else None
    except ValueError:
        return None
