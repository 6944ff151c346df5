"""Distance to the nearest training features."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.ood.base import Chunks, Detector, add_halves, select_columns
from trainer.ood.moments import Moments
from trainer.ood.reference import gather_reference
from trainer.ood.registry import DETECTORS

IDENTICAL = 0.9999  # cosine above which two texts count as identical


@DETECTORS.register(
    "knn",
    cite="Sun et al. 2022, arXiv:2204.06507; whitening: Su et al. 2021, arXiv:2103.15316; "
    "the text itself left out, and halves apart: ours",
)
class NearestNeighbours(Detector):
    """Distance to the k-th nearest training text other than the text itself.

    Sun et al. 2022, arXiv:2204.06507, with two changes. A training text would be its own nearest neighbour: a
    threshold calibrated on new items would never flag a known one, and one calibrated on known items would flag every
    new one. Leaving it out makes the two exchangeable. And query and item have separate neighbours, with averaged
    squared distances: the nearest training *pair* is far from a familiar query with a familiar item that were never
    paired.

    :param width: features ``h``, of one half or of both side by side.
    :param halves: number of halves in the features, each of unit length.
    """

    adds_halves = True

    def __init__(
        self,
        width: int,
        *,
        halves: int = 1,
        k: Annotated[int, Field("k of the k-th nearest neighbour", least=1, most=1000)] = 5,
        max_reference: Annotated[int, Field("training rows kept per half", least=16, most=65536)] = 4096,
        reference: Annotated[
            Literal["sample", "coreset", "kmeans"],
            Field("how rows are reduced to that many: random ones, a spread-out subset, or cluster centres"),
        ] = "sample",
        whiten: Annotated[float, Field("whitening of each half; 1 full, 0 none", least=0, most=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.halves, self.k, self.max_reference, self.how, self.whiten = halves, k, max_reference, reference, whiten
        self.size = width // halves
        self.reference_0: Tensor
        for half in range(halves):
            self.register_buffer(f"reference_{half}", torch.zeros(1, self.size))
            if whiten:
                self.register_buffer(f"mean_{half}", torch.zeros(self.size))
                self.register_buffer(f"turn_{half}", torch.eye(self.size))

    @torch.no_grad()
    def fit(self, chunks: Chunks) -> None:
        """Keep the distinct training rows of each half, or at most ``max_reference`` that represent them.

        :raises ValueError: if a half has no more than ``k`` distinct rows.
        """
        if self.max_reference <= self.k:
            raise ValueError(f"max_reference is {self.max_reference}, no more than k, which is {self.k}")
        for half in range(self.halves):
            self.fit_half(half, select_columns(chunks, slice(half * self.size, (half + 1) * self.size)))

    @torch.no_grad()
    def fit_half(self, half: int, chunks: Chunks) -> None:
        """Keep the distinct training rows of a half, or at most ``max_reference`` that represent them."""
        rows = gather_reference(chunks, self.max_reference, self.how)
        if len(rows) <= self.k:
            raise ValueError(f"the {self.k}-th neighbour needs more than {self.k} distinct rows, not {len(rows)}")
        if self.whiten:
            moments = Moments.of(chunks)
            setattr(self, f"mean_{half}", moments.mean.float())
            setattr(self, f"turn_{half}", moments.whitening(self.whiten).float())
        setattr(self, f"reference_{half}", self._whitened(rows, half))

    def _whitened(self, part: Tensor, half: int) -> Tensor:
        if not self.whiten:
            return part
        return F.normalize((part - getattr(self, f"mean_{half}")) @ getattr(self, f"turn_{half}"), dim=1, eps=1e-9)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the distance of each row, ``[n]`` float in [0, 2]."""
        return self.join(add_halves(self, features.chunk(self.halves, dim=1)))

    def of_half(self, half: int, features: Tensor) -> Tensor:
        """Compute the squared distance to the k-th nearest training text of that half."""
        cosine = self._whitened(features, half) @ getattr(self, f"reference_{half}").T
        cosine = (cosine - 3.0 * (cosine > IDENTICAL).to(cosine)).clamp_min(-1.0)
        nearest: Tensor = cosine.topk(self.k, dim=1).values[:, -1]
        return 2.0 - 2.0 * nearest

    def join(self, total: Tensor) -> Tensor:
        """Take the root of the mean over the halves."""
        return (total / self.halves).clamp_min(1e-12).sqrt()
