"""Losses: pure functions of tensors, one per file, in three registries.

A grade loss teaches how relevant a pair is, a rank loss the order of a query's items, a distillation loss a teacher's
scores.
"""

from trainer.losses.registries import DISTILLATION_LOSSES, GRADE_LOSSES, RANK_LOSSES  # isort: skip
from trainer.losses import (  # noqa: F401  importing a loss registers it
    corn,
    cross_entropy,
    cumulative,
    focal,
    kl,
    lambda_loss,
    listmle,
    margin_mse,
    pairwise,
    pairwise_margin,
    sord,
    squared_emd,
    yes_no,
)

__all__ = ["DISTILLATION_LOSSES", "GRADE_LOSSES", "RANK_LOSSES"]
