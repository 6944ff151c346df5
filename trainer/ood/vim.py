"""Residual of the features outside the training set's principal directions, minus the head's energy."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from darl_opensearch.settings import Field
from trainer.ood.base import Chunks, Detector, drop_repeats
from trainer.ood.moments import Moments
from trainer.ood.registry import DETECTORS


@DETECTORS.register("vim", cite="Wang et al. 2022, arXiv:2203.10807; the origin is the mean: ours")
class VirtualLogit(Detector):
    """Virtual-logit matching: the features' residual as one more logit, minus the energy of the head's.

    Wang et al. 2022, arXiv:2203.10807, with two changes, because a split model's head does not read the detector's
    features, and ordinal heads have no logit per class. The origin is the training mean instead of the point where the
    head's logits vanish, and the residual is scaled to the mean size of the energy instead of the largest logit, from
    which it differs by at most ``log k`` for ``k`` logits.
    """

    reads = ("features", "energy")

    def __init__(
        self,
        width: int,
        *,
        halves: int = 1,
        dim: Annotated[
            int, Field("principal directions left out; 0: half of the feature width", least=0, most=8192)
        ] = 0,
    ) -> None:
        super().__init__()
        self.dim = dim or width // 2
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("residual", torch.zeros(width, 1))
        self.register_buffer("scale", torch.ones(()))
        self.mean: Tensor
        self.residual: Tensor
        self.scale: Tensor

    @torch.no_grad()
    def fit(self, chunks: Chunks) -> None:
        """Find the residual directions and the scale.

        :param chunks: of ``[m, h]`` float features and ``[m]`` float energies.
        :raises ValueError: if there are too few distinct rows, or no direction remains.
        """
        moments = Moments.of(chunks)
        if self.dim >= len(moments.mean):
            raise ValueError(f"dim is {self.dim} and the features have {len(moments.mean)}")
        _, vectors = torch.linalg.eigh(moments.covariance)  # ascending
        self.mean.copy_(moments.mean)
        self.residual = vectors[:, : len(moments.mean) - self.dim].float()
        residuals, energies = 0.0, 0.0
        for features, energy in drop_repeats(chunks()):
            residuals += float(self._residual_norm(features).double().sum())
            energies += float(energy.double().abs().sum())
        self.scale.fill_(energies / max(residuals, 1e-9))

    def _residual_norm(self, features: Tensor) -> Tensor:
        return ((features - self.mean) @ self.residual).square().sum(1).clamp_min(1e-12).sqrt()

    def forward(self, features: Tensor, energy: Tensor) -> Tensor:
        """Return the scaled residual minus the energy, ``[n]`` float of either sign."""
        return self.scale * self._residual_norm(features) - energy
