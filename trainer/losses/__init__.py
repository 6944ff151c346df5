"""Losses: pure functions of tensors, one idea a file, in two registries.

A grade loss teaches how relevant a pair is, a rank loss which of two items of a query comes first.
"""

from trainer.losses.registries import GRADE_LOSSES, RANK_LOSSES  # isort: skip
from trainer.losses import cumulative, pairwise, yes_no

__all__ = ["GRADE_LOSSES", "RANK_LOSSES", "cumulative", "pairwise", "yes_no"]
