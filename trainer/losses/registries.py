"""The registries of losses, and their shared checks.

A grade loss ``(raw, grades)`` reads the output of its head (:mod:`trainer.models.heads`; ``head`` names it) and is a
mean over pairs. A rank loss ``(score, gains, query_index)`` is a mean over the *comparable* queries: those with two
items of different gain. A distillation loss ``(score, teacher, query_index)`` is a mean over the queries with different
teacher scores. So a batch's loss is the weighted mean of its parts' losses, and the number of processes does not change
the result.

Shapes are the same everywhere: ``grades`` ``[n]`` int64 in ``0..k-1``, else ValueError; ``score`` ``[n]`` float, the
head's latent; ``gains`` ``[n]`` float in [0, 1]; ``teacher`` ``[n]`` float; ``query_index`` ``[n]`` int64, equal for
items of one query. Every loss is ``[]`` float, and 0 if there is nothing to average over.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.registry import Registry

GRADE_LOSSES: Registry[Callable[..., Tensor]] = Registry("grade loss")
RANK_LOSSES: Registry[Callable[..., Tensor]] = Registry("rank loss")
DISTILLATION_LOSSES: Registry[Callable[..., Tensor]] = Registry("distillation loss")


def check_grades(grades: Tensor, k: int) -> None:
    """Refuse grades outside ``0..k-1``, or of another type than int64, with a ValueError."""
    if grades.dtype != torch.int64:
        raise ValueError(f"grades are {grades.dtype}, not int64")
    if grades.numel() and not (0 <= int(grades.min()) and int(grades.max()) < k):
        raise ValueError(f"grades lie in {int(grades.min())}..{int(grades.max())}, not in 0..{k - 1}")


def count_comparable(values: Tensor, query_index: Tensor) -> Tensor:
    """Count the queries with two different values, which rank and distillation losses average over.

    :param values: ``[n]`` gains or teacher scores.
    :return: ``[]`` int64.
    """
    if not len(values):
        return torch.zeros((), dtype=torch.int64, device=values.device)
    queries, place = query_index.unique(return_inverse=True)
    low = values.new_full((len(queries),), torch.inf).scatter_reduce(0, place, values, "amin")
    high = values.new_full((len(queries),), -torch.inf).scatter_reduce(0, place, values, "amax")
    return (high > low).sum()
