"""Grades as unordered classes, one logit each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.heads.base import HEADS, Head, fit_bias_correction


@HEADS.register("nominal", cite="Bridle 1990, doi:10.1007/978-3-642-76153-9_28 (softmax)")
class NominalHead(Head):
    """``k`` logits and a softmax; the order of the grades is left to the loss."""

    def __init__(self, input_width: int, gains: tuple[float, ...]) -> None:
        super().__init__(input_width, gains)
        weight = torch.zeros(self.k, input_width)
        weight[:, 0] = torch.linspace(-1.0, 1.0, self.k)  # higher grades grow with the first column
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(self.k))

    def forward(self, head_input: Tensor) -> Tensor:
        """Compute the logits of the grades, ``[n, k]``."""
        return self.standardise(head_input) @ self.weight.T + self.bias

    def grade_probs(self, raw: Tensor) -> Tensor:
        """Compute the probability of each grade, ``[n, k]``."""
        return raw.softmax(dim=1)

    def energy(self, raw: Tensor) -> Tensor:
        """Compute the log-sum-exp of the logits, ``[n]`` (Liu et al. 2020, arXiv:2010.03759, without the sign)."""
        return raw.logsumexp(dim=1)

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Initialise with the directions of the grades."""
        self.weight.copy_(rows)
        self.bias.zero_()

    def calibrate(self, head_input: Tensor, grades: Tensor, *, prior: float) -> None:
        """Fit a temperature and a bias for each grade."""
        slope, shift = fit_bias_correction(self, head_input, grades, prior=prior)
        with torch.no_grad():
            self.weight.mul_(slope)
            self.bias.mul_(slope).add_(shift.to(self.bias))
