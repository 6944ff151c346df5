"""Grades as a chain of steps: given that the last one was reached, is the next?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.heads.base import HEADS, Head, bias_corrected


@HEADS.register("corn", cite="Shi, Cao and Raschka 2021, arXiv:2111.08851")
class CornHead(Head):
    """``k - 1`` conditional logits, one of ``P(grade > j | grade >= j)`` each; their products order the grades.

    :param gains: gain of each of the ``k`` grades, increasing.
    """

    def __init__(self, input_width: int, gains: tuple[float, ...]) -> None:
        super().__init__(input_width, gains)
        weight = torch.zeros(self.k - 1, input_width)
        weight[:, 0] = 1.0  # every step is likelier where the first column is higher
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(self.k - 1))

    def forward(self, head_input: Tensor) -> Tensor:
        """Logits of ``P(grade > j | grade >= j)``.

        :param head_input: ``[n, f]`` float.
        :return: ``[n, k-1]`` float.
        """
        return self.standardised(head_input) @ self.weight.T + self.bias

    def grade_probs(self, raw: Tensor) -> Tensor:
        """Probability of each grade.

        :param raw: ``[n, k-1]`` from :meth:`forward`.
        :return: ``[n, k]``, rows sum to 1.
        """
        above = torch.sigmoid(raw).cumprod(dim=1)
        one = torch.ones_like(above[:, :1])
        return torch.cat([one, above], dim=1) - torch.cat([above, one - one], dim=1)

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Start from one direction a grade: a step is the grades above it against the one below.

        :param rows: ``[k, f]`` float.
        """
        self.weight.copy_(torch.stack([rows[j + 1 :].mean(0) - rows[j] for j in range(self.k - 1)]))
        self.bias.zero_()

    def calibrate(self, head_input: Tensor, grades: Tensor, *, prior: float) -> None:
        """One slope and a shift for each step, by maximum likelihood.

        :param head_input: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        :param prior: weight of the pull towards what is there.
        """
        slope, shift = bias_corrected(self, head_input, grades, prior=prior)
        with torch.no_grad():
            self.weight.mul_(slope)
            self.bias.mul_(slope).add_(shift.to(self.bias))
