"""From similarity features to ordered grades: one latent, ``k - 1`` increasing thresholds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CumulativeHead(nn.Module):
    """Proportional odds over standardised features (McCullagh 1980).

    The untrained head reads the first feature only, so a model starts by ranking as that feature does.

    :param n_features: features of a pair.
    :param gains: gain of each of the ``k`` grades, increasing.
    """

    def __init__(self, n_features: int, gains: tuple[float, ...]) -> None:
        super().__init__()
        k = len(gains)
        self.k = k
        weight = torch.zeros(n_features)
        weight[0] = 1.0
        self.weight = nn.Parameter(weight)
        self.first = nn.Parameter(torch.tensor(-1.0))
        self.gaps = nn.Parameter(torch.full((k - 2,), math.log(math.e - 1)))  # softplus -> 1
        self.register_buffer("shift", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        steps = torch.tensor(gains, dtype=torch.float64)
        self.register_buffer("gain_steps", (steps.diff() / steps[-1]).float())
        self.register_buffer("gain_floor", (steps[0] / steps[-1]).float())
        self.shift: Tensor
        self.scale: Tensor
        self.gain_steps: Tensor
        self.gain_floor: Tensor

    @property
    def thresholds(self) -> Tensor:
        """``[k-1]`` increasing cuts of the latent."""
        return torch.cat([self.first[None], self.first + F.softplus(self.gaps).cumsum(0)])

    def latent(self, features: Tensor) -> Tensor:
        """Relevance on one line, without bounds.

        :param features: ``[n, f]`` float.
        :return: ``[n]`` float.
        """
        return ((features - self.shift) / self.scale) @ self.weight

    def forward(self, features: Tensor) -> Tensor:
        """Logits of ``P(grade > j)``.

        :param features: ``[n, f]`` float.
        :return: ``[n, k-1]`` float, decreasing along each row.
        """
        return self.latent(features)[:, None] - self.thresholds[None, :]

    def grade_probs(self, raw: Tensor) -> Tensor:
        """Probability of each grade.

        :param raw: ``[n, k-1]`` from :meth:`forward`.
        :return: ``[n, k]``, rows sum to 1.
        """
        above = torch.sigmoid(raw)
        one = torch.ones_like(above[:, :1])
        return torch.cat([one, above], dim=1) - torch.cat([above, one - one], dim=1)

    def score(self, raw: Tensor) -> Tensor:
        """Expected gain over the highest gain; increasing in the latent.

        :param raw: ``[n, k-1]`` from :meth:`forward`.
        :return: ``[n]`` in [0, 1].
        """
        return self.gain_floor + torch.sigmoid(raw) @ self.gain_steps

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Set shift and scale from training features, keeping the latent's order of an untrained head.

        :param features: ``[n, f]`` float.
        """
        self.shift.copy_(features.mean(0))
        self.scale.copy_(features.std(0).clamp_min(1e-4) if len(features) > 1 else torch.ones_like(self.scale))

    @torch.no_grad()
    def rescale(self, slope: float, thresholds: Tensor) -> None:
        """Fold a calibration into the parameters: latent times ``slope``, new thresholds.

        :param slope: positive.
        :param thresholds: ``[k-1]`` increasing, on the new latent.
        """
        self.weight.mul_(slope)
        self.first.copy_(thresholds[0])
        gaps = thresholds.diff().clamp_min(1e-4)
        self.gaps.copy_(gaps + torch.log(-torch.expm1(-gaps)))  # inverse of softplus
