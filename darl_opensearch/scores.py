"""The columns every scorer returns, and the one rule that turns them into a grade.

The column order is a contract between the ONNX graph, ML Commons, the HTTP service and the OOD log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import InputError, short
from darl_opensearch.records.values import as_whole


@dataclass(frozen=True)
class GradeScale:
    """The ordered grades of a model: index is the grade, higher is more relevant.

    :param names: a name for each grade, lowest first.
    :param gains: the gain of each grade, increasing, the lowest at least 0.
    """

    names: tuple[str, ...]
    gains: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a scale on which an expected gain would not be a score."""
        if len(self.names) != len(self.gains):
            raise InputError(f"{len(self.names)} grade names but {len(self.gains)} gains", todo="set one per grade")
        if len(self.names) < 2:
            raise InputError("a scale needs at least two grades", todo="list the grades from lowest to highest")
        if len(set(self.names)) != len(self.names):
            raise InputError(f"grade names {list(self.names)} are not distinct", todo="give each grade its own name")
        bounds = zip((-math.inf, *self.gains), (*self.gains, math.inf), strict=True)
        if not (self.gains[0] >= 0 and all(a < b for a, b in bounds)):  # the negation refuses NaN as well
            raise InputError(f"gains {list(self.gains)} must be at least 0 and increasing", todo="order them by grade")

    @property
    def k(self) -> int:
        """Number of grades."""
        return len(self.names)


@dataclass(frozen=True)
class Columns:
    """Where each value lies in a row of ``scores``, for ``k`` grades."""

    k: int

    score = 0

    @property
    def width(self) -> int:
        """Values a pair: ``3 + k``."""
        return 3 + self.k

    @property
    def grade_probs(self) -> slice:
        """Columns ``1..k``."""
        return slice(1, 1 + self.k)

    @property
    def ood_score(self) -> int:
        """Column of 1 minus the conformal p-value."""
        return 1 + self.k

    @property
    def ood_distance(self) -> int:
        """Column of the scaled detector distance."""
        return 2 + self.k

    def hit_fields(self) -> dict[str, int]:
        """Fields a search hit carries, each with its column.

        :return: field name to column, in column order.
        """
        fields = {"darl_score": self.score}
        fields |= {f"darl_grade_probs_{grade}": 1 + grade for grade in range(self.k)}
        return fields | {"darl_ood_score": self.ood_score, "darl_ood_distance": self.ood_distance}


@dataclass(frozen=True)
class Scores:
    """A model's scores of the documents of one query, in the order they were passed.

    :param data: ``[n, 3 + k]`` float32, laid out by :class:`Columns`.
    :param alpha: false-alarm rate the OOD calibration was asked for.
    """

    data: NDArray[np.float32]
    alpha: float

    def __post_init__(self) -> None:
        """Refuse what no contract-abiding graph returns."""
        if self.data.ndim != 2 or self.data.shape[1] < 5:
            raise InputError(
                f"scores have shape {self.data.shape}, not [n, 3 + k]", todo="run darl check on the bundle"
            )
        if not np.isfinite(self.data).all():
            raise InputError("the model returned a value that is not finite", todo="run darl check on the bundle")

    def __len__(self) -> int:
        """Number of pairs."""
        return int(self.data.shape[0])

    @property
    def columns(self) -> Columns:
        """Layout of :attr:`data`."""
        return Columns(self.data.shape[1] - 3)

    @property
    def score(self) -> NDArray[np.float32]:
        """``[n]`` expected gain over the highest gain, in [0, 1]."""
        return self.data[:, 0]

    @property
    def grade_probs(self) -> NDArray[np.float32]:
        """``[n, k]`` calibrated probability of each grade."""
        return self.data[:, self.columns.grade_probs]

    @property
    def grade(self) -> NDArray[np.int64]:
        """``[n]`` most probable grade; ties go to the lower one."""
        return grade_of(self.grade_probs)

    @property
    def ood_score(self) -> NDArray[np.float32]:
        """``[n]`` 1 minus the conformal p-value, in [0, 1]."""
        return self.data[:, self.columns.ood_score]

    @property
    def ood_distance(self) -> NDArray[np.float32]:
        """``[n]`` detector distance: 0 at the calibration median, 1 at its 95th percentile, unbounded."""
        return self.data[:, self.columns.ood_distance]

    @property
    def is_ood(self) -> NDArray[np.bool_]:
        """``[n]`` whether ``ood_score >= 1 - alpha``."""
        return is_ood(self.ood_score, self.alpha)

    def order(self) -> NDArray[np.int64]:
        """Rank the pairs: by score, ties in the order given, as OpenSearch sorts.

        :return: ``[n]`` indices, best first.
        """
        return np.argsort(-self.score, kind="stable")


@dataclass(frozen=True)
class Thresholds:
    """What a document must reach to be returned.

    :param min_grade: the lowest of the most probable grades that are returned.
    :param min_score: the lowest score that is returned, in [0, 1].
    :param drop_ood: leave out documents that are out of distribution, whatever their grade.
    """

    min_grade: int = 0
    min_score: float = 0.0
    drop_ood: bool = False

    @classmethod
    def of(cls, scale: GradeScale, *, min_grade: Any = None, min_score: Any = None, drop_ood: Any = None) -> Thresholds:
        """Check thresholds as callers send them; None: not given.

        :param min_grade: a grade's number or its name.
        :raises InputError: naming the threshold that the model cannot apply.
        """
        return cls(_as_grade(min_grade, scale), _as_share(min_score), _as_flag(drop_ood))

    def keep(self, scores: Scores) -> NDArray[np.bool_]:
        """Tell which documents reach them, ``[n]``.

        Like the OOD bound, the bound of the score gives way by 1e-6: values cross float32 and six decimals.
        """
        reached = (scores.grade >= self.min_grade) & (scores.score.astype(np.float64) >= self.min_score - 1e-6)
        return reached & ~scores.is_ood if self.drop_ood else reached


def _as_grade(value: Any, scale: GradeScale) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        if value in scale.names:
            return scale.names.index(value)
        value = int(value) if value.isdecimal() and len(value) < 9 else value
    grade = as_whole(value)
    if grade is None or not 0 <= grade < scale.k:
        grades = ", ".join(f"{number} ({name})" for number, name in enumerate(scale.names))
        raise InputError(
            f"is {short(value)}, not a grade of this model", where="min_grade", todo=f"use one of {grades}"
        )
    return grade


def _as_share(value: Any) -> float:
    if value is None:
        return 0.0
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InputError(f"is {short(value)}, not a number from 0 to 1", where="min_score", todo="scores are in [0, 1]")
    return float(value)


def _as_flag(value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"is {short(value)}, not true or false", where="drop_ood", todo="use true or false")
    return bool(value)


def join_chunks(rows: NDArray[np.float32], sizes: Sequence[int]) -> NDArray[np.float32]:
    """Join the rows of items' chunks: all columns of an item are those of its best-scoring chunk, ties to the first.

    :param rows: ``[m, 3 + k]``, chunk by chunk.
    :param sizes: ``n`` numbers of chunks, each at least 1.
    :return: ``[n, 3 + k]``.
    """
    if len(rows) == len(sizes):
        return rows
    ends = np.cumsum(sizes, dtype=np.int64)
    scores = np.split(rows[:, Columns.score], ends[:-1])
    return rows[[end - len(part) + int(part.argmax()) for part, end in zip(scores, ends.tolist(), strict=True)]]


def score_chunks(
    score: Callable[[list[tuple[str, str]]], NDArray[np.float32]], pairs: Sequence[tuple[str, str]],
    chunks: Callable[[str], Sequence[str]],
) -> NDArray[np.float32]:  # fmt: skip
    """Score pairs of query and item text, each item in chunks.

    :param score: scores pairs of texts, ``[m, 3 + k]``.
    :param chunks: cuts a text.
    :return: ``[n, 3 + k]``.
    """
    parts = [chunks(text) for _, text in pairs]
    rows = score([(query, text) for (query, _), texts in zip(pairs, parts, strict=True) for text in texts])
    return join_chunks(rows, [len(texts) for texts in parts])


def grade_of(grade_probs: NDArray[np.floating] | Sequence[Sequence[float]]) -> NDArray[np.int64]:
    """Most probable grade of each row; ties go to the lower grade.

    :param grade_probs: ``[n, k]`` probabilities.
    :return: ``[n]`` int64 in ``0..k-1``.
    """
    probs = np.asarray(grade_probs, dtype=np.float64)
    return np.argmax(probs, axis=1).astype(np.int64) if probs.size else np.zeros(len(probs), dtype=np.int64)


def is_ood(ood_score: NDArray[np.floating], alpha: float) -> NDArray[np.bool_]:
    """Whether each ``ood_score`` lies at or above ``1 - alpha``.

    Values cross float32 and six printed decimals on their way, so the bound gives way by 1e-6.

    :param ood_score: ``[n]`` in [0, 1].
    :param alpha: false-alarm rate, in (0, 1).
    :return: ``[n]`` bool.
    """
    return np.asarray(ood_score, dtype=np.float64) >= 1.0 - alpha - 1e-6
