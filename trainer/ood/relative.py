"""Relative Mahalanobis distance: to the nearest group of training features, minus that to all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.ood.base import Chunks, Detector, drop_repeats
from trainer.ood.moments import Moments, shrink, shrinkage, whitening
from trainer.ood.reference import assign_centres, kmeans, sample
from trainer.ood.registry import DETECTORS

SAMPLED = 8192  # training rows to find the groups in


@DETECTORS.register(
    "relative_mahalanobis",
    cite="Ren et al. 2021, arXiv:2106.09022; groups instead of classes: Sehwag et al. 2021, arXiv:2103.12051",
)
class RelativeMahalanobis(Detector):
    """Squared Mahalanobis distance to the nearest group minus that to all training rows.

    Ren et al. 2021, arXiv:2106.09022: the background Gaussian, common to all texts, cancels out. Queries and items have
    no classes, so k-means groups take their place. Both scatters, the one within groups and the background's, are
    divided by the number of rows, and both are shrunk alike: by the Ledoit-Wolf weight of the noisier one within
    groups, towards the background's mean variance. Shrunk separately, the scatter within groups can become the wider
    one, and rows farther away would get smaller relative distances.
    """

    def __init__(
        self,
        width: int,
        *,
        halves: int = 1,
        groups: Annotated[int, Field("k-means clusters of training rows", least=2, most=256)] = 8,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("background", torch.eye(width))
        self.register_buffer("within", torch.eye(width))
        self.register_buffer("centres", torch.zeros(1, width))
        self.mean: Tensor
        self.background: Tensor
        self.within: Tensor
        self.centres: Tensor

    @torch.no_grad()
    def fit(self, chunks: Chunks) -> None:
        """Find the groups, then both Gaussians' moments.

        :param chunks: of ``[m, h]`` float, training rows of one length; repeated rows count once.
        :raises ValueError: if there are fewer than four distinct rows.
        """
        moments = Moments.of(chunks)
        if moments.count < 4:
            raise ValueError(f"two groups need at least four distinct rows, not {moments.count}")
        sampled = F.normalize(sample(chunks, SAMPLED), dim=1, eps=1e-9)
        seeds = kmeans(sampled, min(self.groups, moments.count // 2))
        count = torch.zeros(len(seeds), dtype=torch.float64)
        total = torch.zeros(len(seeds), len(moments.mean), dtype=torch.float64)
        for rows, group in _grouped(chunks, seeds):
            count += torch.bincount(group, minlength=len(seeds))
            total.index_add_(0, group, rows)
        centres = total / count.clamp_min(1.0)[:, None]
        scatter, fourth = torch.zeros_like(moments.covariance), 0.0
        for rows, group in _grouped(chunks, seeds):
            centred = rows - centres[group]
            scatter += centred.T @ centred
            fourth += float(centred.square().sum(1).square().sum())
        inner, variance = scatter / moments.count, moments.covariance.diagonal().mean()
        weight = shrinkage(inner, moments.count, fourth / moments.count)
        within = whitening(shrink(inner, weight, variance))
        self.mean.copy_(moments.mean)
        self.background.copy_(whitening(shrink(moments.covariance, weight, variance)))
        self.within.copy_(within)
        self.centres = ((centres[count > 0] - moments.mean) @ within).float()

    def forward(self, features: Tensor) -> Tensor:
        """Compute the relative distance of each row, ``[n]`` float of either sign."""
        centred = features - self.mean
        inside = centred @ self.within
        squares = inside.square().sum(1, keepdim=True) + self.centres.square().sum(1)[None, :]
        nearest = (squares - 2.0 * (inside @ self.centres.T)).amin(dim=1)
        return nearest - (centred @ self.background).square().sum(1)


def _grouped(chunks: Chunks, centres: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield distinct rows in float64 with their groups, chunk by chunk."""
    return (
        (rows.double(), assign_centres(F.normalize(rows, dim=1, eps=1e-9), centres))
        for (rows,) in drop_repeats((chunk[0],) for chunk in chunks())
    )
