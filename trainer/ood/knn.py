"""Distance to the nearest training features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.ood.registry import DETECTORS
from trainer.registry import Param


@DETECTORS.register(
    "knn",
    cite="Sun et al. 2022, arXiv:2204.06507",
    params={
        "k": Param(kind=int, default=5, min=1, max=1000, help="which nearest neighbour's distance is taken"),
        "max_reference": Param(kind=int, default=4096, min=16, max=65536, help="training rows kept, a random sample"),
    },
)
class NearestNeighbours(nn.Module):
    """Euclidean distance to the k-th nearest training row, rows being of unit length.

    Sun et al. 2022, arXiv:2204.06507.

    :param width: features ``h``.
    :param k: which neighbour.
    :param max_reference: most training rows kept.
    """

    def __init__(self, width: int, *, k: int = 5, max_reference: int = 4096) -> None:
        super().__init__()
        self.k, self.max_reference = k, max_reference
        self.register_buffer("reference", torch.zeros(1, width))
        self.reference: Tensor

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Keep the distinct training rows, or a seeded sample of them.

        :param features: ``[m, h]`` float of unit length.
        :raises ValueError: when there are fewer distinct rows than ``k``.
        """
        rows = torch.unique(features, dim=0)
        if len(rows) < self.k:
            raise ValueError(f"the {self.k}-th neighbour needs at least {self.k} distinct rows, not {len(rows)}")
        if len(rows) > self.max_reference:
            keep = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: self.max_reference]
            rows = rows[keep.sort().values]
        self.reference = rows.clone()

    def forward(self, features: Tensor) -> Tensor:
        """Distance of each row.

        :param features: ``[n, h]`` float of unit length.
        :return: ``[n]`` float in [0, 2].
        """
        nearest = (features @ self.reference.T).topk(self.k, dim=1).values[:, -1]
        return (2.0 - 2.0 * nearest).clamp_min(1e-12).sqrt()
