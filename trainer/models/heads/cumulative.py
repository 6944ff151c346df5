"""Ordered grades from one latent and ``k - 1`` increasing thresholds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.losses.cumulative import cumulative
from trainer.models.heads.base import HEADS, Head, to_grade_probs


@HEADS.register("cumulative", cite="McCullagh 1980, doi:10.1111/j.2517-6161.1980.tb01109.x")
class CumulativeHead(Head):
    """Proportional odds: one latent orders the items, the thresholds grade them, so calibration cannot reorder."""

    def __init__(self, input_width: int, gains: tuple[float, ...]) -> None:
        super().__init__(input_width, gains)
        weight = torch.zeros(input_width)
        weight[0] = 1.0
        self.weight = nn.Parameter(weight)
        self.first = nn.Parameter(torch.tensor(-1.0))
        self.gaps = nn.Parameter(torch.full((self.k - 2,), math.log(math.e - 1)))  # softplus -> 1
        steps = torch.tensor(gains, dtype=torch.float64)
        self.register_buffer("gain_steps", (steps.diff() / steps[-1]).float())
        self.register_buffer("gain_floor", (steps[0] / steps[-1]).float())
        self.gain_steps: Tensor
        self.gain_floor: Tensor

    @property
    def thresholds(self) -> Tensor:
        """``[k-1]`` increasing thresholds on the latent."""
        return torch.cat([self.first[None], self.first + F.softplus(self.gaps).cumsum(0)])

    def latent(self, head_input: Tensor) -> Tensor:
        """Compute the latent, ``[n]``."""
        return self.standardise(head_input) @ self.weight

    def forward(self, head_input: Tensor) -> Tensor:
        """Compute the logits of ``P(grade > j)``, ``[n, k-1]``, decreasing along each row."""
        return self.latent(head_input)[:, None] - self.thresholds[None, :]

    def grade_probs(self, raw: Tensor) -> Tensor:
        """Compute the probability of each grade, ``[n, k]``."""
        return to_grade_probs(torch.sigmoid(raw))

    def score(self, raw: Tensor) -> Tensor:
        """Compute the expected gain over the highest gain, ``[n]``; increasing in the latent."""
        return self.gain_floor + torch.sigmoid(raw) @ self.gain_steps

    def rank_score(self, raw: Tensor) -> Tensor:
        """Compute the latent, ``[n]``."""
        return raw[:, 0] + self.first

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Initialise the latent as the mean of the directions, weighted by centred gains.

        The thresholds are spaced evenly around 0, where the evidence for both ends is equal.
        """
        centred = self.gain - self.gain.mean()
        self.weight.copy_((centred[:, None] * rows).sum(0) / centred.abs().sum().clamp_min(1e-6) * 2.0)
        self.first.fill_(-(self.k - 2) / 2)
        self.gaps.fill_(math.log(math.e - 1))

    def calibrate(self, head_input: Tensor, grades: Tensor, *, prior: float) -> None:
        """Fit the slope of the latent and the thresholds, as Platt scaling (Platt 1999) does for two classes."""
        with torch.no_grad():
            latent = self.latent(head_input).double()
            start = self.thresholds.double()
        log_slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
        first = start[:1].clone().requires_grad_()
        log_gaps = start.diff().clamp_min(1e-3).log().requires_grad_()
        parameters = [log_slope, first] + ([log_gaps] if log_gaps.numel() else [])
        optimiser = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

        def thresholds() -> Tensor:
            return torch.cat([first, first + log_gaps.exp().cumsum(0)])

        def closure() -> Tensor:
            optimiser.zero_grad()
            raw = latent[:, None] * log_slope.exp() - thresholds()[None, :]
            pull = log_slope.square() + (thresholds() - start).square().sum()
            loss = cumulative(raw, grades) + prior * pull
            loss.backward()
            return loss

        optimiser.step(closure)
        self.rescale(float(log_slope.detach().exp()), thresholds().detach().float())

    @torch.no_grad()
    def forget_scale(self, head_input: Tensor, grades: Tensor) -> None:
        """Give the latent a spread of 1, and thresholds that follow from the grades' shares alone."""
        latent = self.latent(head_input)
        slope = 1.0 / float(latent.std().clamp_min(1e-4)) if len(latent) > 1 else 1.0
        above = torch.stack([(grades > grade).float().mean() for grade in range(self.k - 1)])
        rare = 0.5 / max(len(grades), 1)
        self.rescale(slope, slope * latent.mean() - torch.logit(above.clamp(rare, 1.0 - rare)))

    @torch.no_grad()
    def rescale(self, slope: float, thresholds: Tensor) -> None:
        """Fold a calibration into the parameters: latent times ``slope``, new thresholds.

        :param thresholds: ``[k-1]`` increasing, on the new latent.
        """
        self.weight.mul_(slope)
        self.first.copy_(thresholds[0])
        gaps = thresholds.diff().clamp_min(1e-4)
        self.gaps.copy_(gaps + torch.log(-torch.expm1(-gaps)))  # inverse of softplus
