"""Grades as a chain of steps: given that a grade is reached, is the next one reached, too?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.heads.base import HEADS, Head, fit_bias_correction, to_grade_probs


@HEADS.register("corn", cite="Shi, Cao and Raschka 2021, arXiv:2111.08851")
class CornHead(Head):
    """``k - 1`` conditional logits, of ``P(grade > j | grade >= j)``; their products are ordered probabilities."""

    def __init__(self, input_width: int, gains: tuple[float, ...]) -> None:
        super().__init__(input_width, gains)
        weight = torch.zeros(self.k - 1, input_width)
        weight[:, 0] = 1.0  # every step is more likely with a higher first column
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(self.k - 1))

    def forward(self, head_input: Tensor) -> Tensor:
        """Compute the logits of ``P(grade > j | grade >= j)``, ``[n, k-1]``."""
        return self.standardise(head_input) @ self.weight.T + self.bias

    def grade_probs(self, raw: Tensor) -> Tensor:
        """Compute the probability of each grade, ``[n, k]``."""
        return to_grade_probs(torch.sigmoid(raw).cumprod(dim=1))

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Initialise each step as the mean direction of the grades above it, minus that of the grade below."""
        self.weight.copy_(torch.stack([rows[j + 1 :].mean(0) - rows[j] for j in range(self.k - 1)]))
        self.bias.zero_()

    def calibrate(self, head_input: Tensor, grades: Tensor, *, prior: float) -> None:
        """Fit one slope and a shift for each step."""
        slope, shift = fit_bias_correction(self, head_input, grades, prior=prior)
        with torch.no_grad():
            self.weight.mul_(slope)
            self.bias.mul_(slope).add_(shift.to(self.bias))
