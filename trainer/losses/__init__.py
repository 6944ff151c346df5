"""Losses: pure functions of tensors, one idea a file, in three registries.

A grade loss teaches how relevant a pair is, a rank loss which of two items of a query comes first, a
distillation loss what a teacher says of them.
"""

from trainer.losses.registries import DISTILLATION_LOSSES, GRADE_LOSSES, RANK_LOSSES  # isort: skip
from trainer.losses import (
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

__all__ = [
    "DISTILLATION_LOSSES",
    "GRADE_LOSSES",
    "RANK_LOSSES",
    "corn",
    "cross_entropy",
    "cumulative",
    "focal",
    "kl",
    "lambda_loss",
    "listmle",
    "margin_mse",
    "pairwise",
    "pairwise_margin",
    "sord",
    "squared_emd",
    "yes_no",
]
