"""Split conformal calibration of a distance to valid p-values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from darl_opensearch.errors import InputError

MAX_TABLE = 4096


class ConformalCalibration(nn.Module):
    """``ood_score = 1 - p`` with ``p = (1 + #{calibration >= d}) / (n + 1)``, and the scaled distance.

    Vovk, Gammerman and Shafer 2005; for outliers Bates et al. 2023, arXiv:2104.08279. For pairs exchangeable
    with the calibration pairs the false-alarm rate at ``ood_score >= 1 - alpha`` is at most alpha.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("distances", torch.zeros(n))
        self.register_buffer("median", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.distances: Tensor
        self.median: Tensor
        self.spread: Tensor

    @classmethod
    def fit(cls, distances: Tensor, alpha: float) -> ConformalCalibration:
        """Calibrate on held-out distances.

        More than 4,096 are thinned to that many upper order statistics, so that the table rounds towards "not OOD".

        :param distances: ``[n]`` of pairs not used for fitting, model selection or early stopping.
        :param alpha: false-alarm rate that must be attainable, in (0, 1).
        :raises InputError: if ``n < 1 / alpha - 1``: the smallest p-value could not reach alpha.
        """
        check_count(len(distances), alpha)
        table = distances.float().sort().values
        median, tail = table.quantile(0.5), table.quantile(0.95)
        if len(table) > MAX_TABLE:
            # Each order statistic kept represents those just below it.
            upper = torch.arange(1, MAX_TABLE + 1).double() * len(table) / MAX_TABLE
            table = table[upper.ceil().long() - 1]
        calibration = cls(len(table))
        calibration.distances.copy_(table)
        calibration.median.copy_(median)
        calibration.spread.copy_((tail - median).clamp_min(1e-6))
        return calibration

    def forward(self, distance: Tensor) -> Tensor:
        """Both OOD columns."""
        return ood_columns(distance, self.distances[None, :], self.median, self.spread)


def ood_columns(distance: Tensor, table: Tensor, median: Tensor, spread: Tensor) -> Tensor:
    """Compute both OOD columns from a distance; the exported graph traces this function.

    :param distance: ``[n]`` the detector's raw distance.
    :param table: ``[1, m]`` calibration distances.
    :param median: their median, a scalar or ``[1]``.
    :param spread: from the median to the 95th percentile, a scalar or ``[1]``.
    :return: ``[n, 2]``: ``ood_score`` in [0, 1) and ``ood_distance``, unbounded.
    """
    beyond = (table >= distance[:, None]).to(distance).sum(1)
    p = (beyond + 1.0) / (table.shape[1] + 1.0)
    return torch.stack([1.0 - p, (distance - median) / spread], dim=1)


def count_needed(alpha: float) -> int:
    """Count the calibration pairs needed for any pair to be called OOD: the smallest p-value is ``1 / (n + 1)``."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def check_count(pairs: int, alpha: float) -> None:
    """Refuse fewer calibration pairs than :func:`count_needed` with an InputError."""
    needed = count_needed(alpha)
    if pairs < needed:
        raise InputError(
            f"{pairs} calibration pairs are too few for a false-alarm rate of {alpha}",
            where="[ood] alpha",
            todo=f"provide at least {needed} held-out pairs (more queries in [data] traffic), or raise alpha",
        )
