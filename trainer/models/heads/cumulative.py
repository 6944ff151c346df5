"""Ordered grades from one latent and ``k - 1`` increasing thresholds."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

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
            latent, start = self.latent(head_input).double().numpy(), self.thresholds.double().numpy()
        slope, thresholds = fit_scaling(latent, grades.numpy(), start, prior=prior)
        self.rescale(slope, torch.from_numpy(thresholds).float())

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


def fit_scaling(
    latent: NDArray[np.float64], grades: NDArray[np.int64], start: NDArray[np.float64], *, prior: float
) -> tuple[float, NDArray[np.float64]]:
    """Fit a slope of the latent and the thresholds by maximum likelihood.

    The likelihood is that of :func:`~trainer.losses.cumulative.cumulative`. In NumPy, because autograd costs a hundred
    times what these few hundred numbers do.

    :param latent: ``[n]``.
    :param grades: ``[n]``.
    :param start: ``[k-1]`` increasing thresholds.
    :param prior: weight of the pull towards slope 1 and ``start``.
    :return: the slope, above 0, and the ``[k-1]`` increasing thresholds.
    """
    from scipy import optimize, special

    n, cuts = max(len(grades), 1), len(start)
    above, below = (grades[:, None] == np.arange(cuts) + shift for shift in (1, 0))
    between = np.bincount(grades, minlength=cuts + 1)[1:cuts] / n  # share of the grades between two thresholds

    def unpack(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        gaps = np.exp(values[2:])
        return float(np.exp(values[0])), values[1] + np.concatenate([[0.0], gaps.cumsum()]), gaps

    def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, thresholds, gaps = unpack(values)
        raw, pull, apart = latent[:, None] * slope - thresholds, thresholds - start, np.maximum(gaps, 1e-6)
        fit = special.log_expit(raw[above]).sum() + special.log_expit(-raw[below]).sum()
        loss = -fit / n - between @ np.log(-np.expm1(-apart)) + prior * (values[0] ** 2 + pull @ pull)
        by_raw = (below * special.expit(raw) - above * special.expit(-raw)) / n
        by_threshold = 2 * prior * pull - by_raw.sum(0)
        by_gap = by_threshold[::-1].cumsum()[::-1][1:] - between * np.exp(-apart) / -np.expm1(-apart) * (gaps > 1e-6)
        by_slope = slope * (latent @ by_raw.sum(1)) + 2 * prior * values[0]
        return loss, np.concatenate([[by_slope, by_threshold.sum()], by_gap * gaps])

    gaps = np.log(np.maximum(np.diff(start), 1e-3))
    found = optimize.minimize(
        objective, np.concatenate([[0.0, start[0]], gaps]), jac=True, method="L-BFGS-B",
        bounds=[(-20, 20), (None, None), *[(-20, 20)] * (cuts - 1)],  # an absent grade has no end
        options={"ftol": 1e-13, "gtol": 1e-9},
    )  # fmt: skip
    return unpack(found.x)[:2]
