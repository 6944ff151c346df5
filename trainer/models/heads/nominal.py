"""Grades as unordered classes: one logit each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.heads.base import HEADS, Head, bias_corrected


@HEADS.register("nominal", cite="Bridle 1990, doi:10.1007/978-3-642-76153-9_28 (softmax)")
class NominalHead(Head):
    """``k`` logits and a softmax; the order of the grades is left to the loss.

    :param gains: gain of each of the ``k`` grades, increasing.
    """

    def __init__(self, input_width: int, gains: tuple[float, ...]) -> None:
        super().__init__(input_width, gains)
        weight = torch.zeros(self.k, input_width)
        weight[:, 0] = torch.linspace(-1.0, 1.0, self.k)  # higher grades grow with the first column
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(self.k))

    def forward(self, head_input: Tensor) -> Tensor:
        """Logits of the grades.

        :param head_input: ``[n, f]`` float.
        :return: ``[n, k]`` float.
        """
        return self.standardised(head_input) @ self.weight.T + self.bias

    def grade_probs(self, raw: Tensor) -> Tensor:
        """Probability of each grade.

        :param raw: ``[n, k]`` from :meth:`forward`.
        :return: ``[n, k]``, rows sum to 1.
        """
        return raw.softmax(dim=1)

    def energy(self, raw: Tensor) -> Tensor:
        """Log-sum-exp of the logits (Liu et al. 2020, arXiv:2010.03759, without the sign).

        :param raw: ``[n, k]`` from :meth:`forward`.
        :return: ``[n]`` float.
        """
        return raw.logsumexp(dim=1)

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Start from one direction a grade.

        :param rows: ``[k, f]`` float.
        """
        self.weight.copy_(rows)
        self.bias.zero_()

    def calibrate(self, head_input: Tensor, grades: Tensor, *, prior: float) -> None:
        """Temperature and bias by maximum likelihood.

        :param head_input: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        :param prior: weight of the pull towards what is there.
        """
        slope, shift = bias_corrected(self, head_input, grades, prior=prior)
        with torch.no_grad():
            self.weight.mul_(slope)
            self.bias.mul_(slope).add_(shift.to(self.bias))
