"""Mahalanobis distance from the training features' mean."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from darl_opensearch.settings import Field
from trainer.ood.base import Chunks, Detector
from trainer.ood.moments import Moments
from trainer.ood.registry import DETECTORS


@DETECTORS.register(
    "mahalanobis",
    cite="Lee et al. 2018, arXiv:1807.03888; shrinkage of Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4",
)
class Mahalanobis(Detector):
    """Mahalanobis distance to one Gaussian with a shrunk covariance.

    Lee et al. 2018, arXiv:1807.03888, with one class: the training distribution as a whole.

    :param halves: ignored: the covariance is of both halves together.
    """

    def __init__(
        self,
        width: int,
        *,
        halves: int = 1,
        power: Annotated[float, Field("whitening; 1 full, 0 none", least=0, most=1)] = 1.0,
    ) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whiten", torch.eye(width))
        self.mean: Tensor
        self.whiten: Tensor

    @torch.no_grad()
    def fit(self, chunks: Chunks) -> None:
        """Fit mean and covariance.

        :param chunks: of ``[m, h]`` float, training rows; repeated rows count once.
        :raises ValueError: if there are fewer than two distinct rows.
        """
        moments = Moments.of(chunks)
        self.mean.copy_(moments.mean)
        self.whiten.copy_(moments.whitening(self.power))

    def forward(self, features: Tensor) -> Tensor:
        """Compute the distance of each row, ``[n]`` float, at least 0."""
        return ((features - self.mean) @ self.whiten).square().sum(1).clamp_min(1e-12).sqrt()
