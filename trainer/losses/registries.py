"""The two registries, and the checks that every loss shares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.registry import Registry

GRADE_LOSSES: Registry[Callable[..., Tensor]] = Registry("grade loss")
RANK_LOSSES: Registry[Callable[..., Tensor]] = Registry("rank loss")


def check_grades(grades: Tensor, k: int) -> None:
    """Refuse grades that are not on the scale.

    :param grades: ``[n]`` int64.
    :param k: number of grades.
    :raises ValueError: when one lies outside ``0..k-1`` or the type is not int64.
    """
    if grades.dtype != torch.int64:
        raise ValueError(f"grades are {grades.dtype}, not int64")
    if grades.numel() and not (0 <= int(grades.min()) and int(grades.max()) < k):
        raise ValueError(f"grades lie in {int(grades.min())}..{int(grades.max())}, not in 0..{k - 1}")
