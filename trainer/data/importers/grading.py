"""The grade scale of an import, and mapping of source values to it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from darl_opensearch.errors import InputError, UsageError, short
from darl_opensearch.records.values import off_scale
from darl_opensearch.scores import GradeScale
from trainer.data.importers.base import split_list
from trainer.data.importers.gathering import Gathering

MAX_GRADE = 9  # a higher rating is not a grade but a measurement that needs cut points


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """Parse a comma-separated list of increasing numbers.

    :raises UsageError: if one is not a number, or they do not increase.
    """
    try:
        values = tuple(float(part) for part in split_list(text))
    except ValueError:
        values = (math.nan, math.nan)
    if any(not a < b for a, b in zip(values, values[1:], strict=False)) or not all(map(math.isfinite, values)):
        raise UsageError(f"{name} is {text!r}", todo="give increasing numbers separated by commas: 0.5,1.5")
    return values


@dataclass(frozen=True)
class GradeMapping:
    """Maps source values to grades.

    :param labels: names of the grades, lowest first; empty: ``grade 0`` …
    :param gains: of each grade; empty: 0, 1, 2, …
    :param cuts: cut points; a value's grade is the number of them at or below it; empty: the value is the grade.
    """

    labels: tuple[str, ...] = ()
    gains: tuple[float, ...] = ()
    cuts: tuple[float, ...] = ()

    @classmethod
    def of(cls, labels: str = "", gains: str = "", cuts: str = "") -> GradeMapping:
        """Parse the parameters.

        :raises UsageError: if they do not match in number.
        """
        mapping = cls(split_list(labels), parse_numbers(gains, "gains"), parse_numbers(cuts, "cuts"))
        k = len(mapping.cuts) + 1 if mapping.cuts else None
        for name, values in (("labels", mapping.labels), ("gains", mapping.gains)):
            if k and values and len(values) != k:
                raise UsageError(f"{len(values)} {name} for {k} grades", todo=f"{k - 1} cut points separate {k} grades")
        if mapping.labels:
            mapping.scale(0)
        if len({label.casefold() for label in mapping.labels}) < len(mapping.labels):
            raise UsageError(f"two of the labels {', '.join(mapping.labels)} differ only in case",
                             todo="give each grade a different name: case is ignored in the data")  # fmt: skip
        return mapping

    @cached_property
    def _by_label(self) -> dict[Any, int]:
        """The grade of each label, folded; by number if all labels are numbers."""
        numbers = [_number(label) for label in self.labels]
        keys = [label.casefold() for label in self.labels] if None in numbers else numbers
        return dict(zip(keys, range(len(keys)), strict=True))

    @property
    def _are_numbers(self) -> bool:
        return bool(self.labels) and not any(isinstance(label, str) for label in self._by_label)

    def grade(self, value: object, name: str, where: str) -> int:
        """Map a value to its grade.

        Labels that are numbers, such as stars from 1 to 5, are read as labels, whether the source quotes them or not.

        :param value: a label, a whole number (``2``, ``"2"``, ``"2.000"``), or any number with cut points; text may be
            in quotes.
        :raises InputError: if it is not a grade.
        """
        if isinstance(value, str) and len(value) > 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        number = _number(value)
        if self.cuts and number is not None:
            return bisect_right(self.cuts, number)
        label = number if self._are_numbers else value.strip().casefold() if isinstance(value, str) else None
        if (grade := self._by_label.get(label)) is not None:
            return grade
        if number is None or self._are_numbers:
            todo = f"the labels are {', '.join(self.labels)}" if self.labels else "name the grades with --set labels=…"
            raise InputError(f"field {name!r} is {short(value)}, which is not a grade", where=where, todo=todo)
        top = len(self.labels) - 1 if self.labels else MAX_GRADE
        if number != int(number) or not 0 <= number <= top:
            todo = "correct it, or where the format takes cuts, map finer values with --set cuts=0.5,1.5"
            raise off_scale(name, value, top, where, todo=todo)
        return int(number)

    def notes(self, store: Gathering) -> tuple[str, ...]:
        """Say that no judgment has grade 0, which is most often a scale that begins with 1."""
        lowest, highest = store.lowest_grade(), store.highest_grade()
        if self.labels or self.cuts or not 0 < lowest < highest:
            return ()
        labels = ",".join(map(str, range(lowest, highest + 1)))
        return (f"No judgment has a grade below {lowest}. If {lowest} is the lowest grade of your scale, pass "
                f"--set labels={labels}: the gains then begin at 0.",)  # fmt: skip

    def scale(self, highest: int) -> GradeScale:
        """Return the scale: its size is that of labels, gains or cut points, else ``highest + 1``, but at least 2.

        :raises UsageError: if labels and gains differ in number.
        """
        k = len(self.labels) or len(self.gains) or (len(self.cuts) + 1 if self.cuts else max(2, highest + 1))
        names = self.labels or tuple(f"grade {n}" for n in range(k))
        try:
            if highest >= k:
                raise InputError(f"grade {highest} occurs, but there are {k} gains", todo="give a gain for each grade")
            return GradeScale(names, self.gains or tuple(float(n) for n in range(k)))
        except InputError as err:
            raise UsageError(err.what, todo=err.todo) from err


def is_unjudged(value: object) -> bool:
    """Whether a grade is empty: null, nan or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a number of 400 digits
        return None
    return number if math.isfinite(number) else None
