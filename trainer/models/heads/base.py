"""The interface of heads: probabilities, a score, a rank score, and calibration."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.registry import Registry

HEADS: Registry[type[Head]] = Registry("head")
SMALLEST = 1e-6  # minimum distance from 0 and 1 of a probability whose logit is taken


class Head(nn.Module, ABC):
    """Turns standardised input into grades.

    The score of the untrained head increases with the first column and ignores the others, so that a model starts by
    ranking as that column does.

    :param gains: gain of each of the ``k`` grades, increasing.
    """

    weight: nn.Parameter
    shift: Tensor
    scale: Tensor
    gain: Tensor

    def __init__(self, input_width: int, gains: tuple[float, ...]) -> None:
        super().__init__()
        self.k = len(gains)
        self.register_buffer("shift", torch.zeros(input_width))
        self.register_buffer("scale", torch.ones(input_width))
        table = torch.tensor(gains, dtype=torch.float64)
        self.register_buffer("gain", (table / table[-1]).float(), persistent=False)

    @abstractmethod
    def forward(self, head_input: Tensor) -> Tensor:
        """Compute the input of the grade loss.

        :param head_input: ``[n, f]`` float.
        :return: ``[n, m]`` float; each head defines its columns.
        """

    @abstractmethod
    def grade_probs(self, raw: Tensor) -> Tensor:
        """Compute the probability of each grade.

        :param raw: ``[n, m]`` from :meth:`forward`.
        :return: ``[n, k]``, rows sum to 1.
        """

    @abstractmethod
    def start_from(self, rows: Tensor) -> None:
        """Initialise from one direction per grade, such as a language model's output rows for the grade words.

        :param rows: ``[k, f]`` float; the input's product with row ``g`` is evidence for grade ``g``.
        """

    @abstractmethod
    def calibrate(self, head_input: Tensor, grades: Tensor, *, prior: float) -> None:
        """Calibrate the grades' probabilities by maximum likelihood on held-out pairs.

        :param head_input: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        :param prior: weight of the pull towards the present parameters, for grades that are rare in these pairs.
        """

    def forget_scale(self, head_input: Tensor, grades: Tensor) -> None:
        """Start a calibration afresh, if the head has thresholds that depend on the scale of its input.

        :param head_input: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        """
        return

    def standardise(self, head_input: Tensor) -> Tensor:
        """Standardise ``[n, f]`` input by the training set's mean and spread."""
        return (head_input - self.shift) / self.scale

    def score(self, raw: Tensor) -> Tensor:
        """Compute the expected gain over the highest gain, ``[n]`` in [0, 1]."""
        return self.grade_probs(raw) @ self.gain

    def rank_score(self, raw: Tensor) -> Tensor:
        """Compute the input of rank losses, ``[n]``: increasing in the score, but unbounded, so that gradients stay."""
        low = float(self.gain[0])
        share = (self.score(raw) - low) / max(1.0 - low, SMALLEST)
        return torch.logit(share, eps=SMALLEST)

    def latent(self, head_input: Tensor) -> Tensor:
        """Compute an unbounded relevance, ``[n]``, that orders as the score does, without its rounding."""
        return self.rank_score(self(head_input))

    def energy(self, raw: Tensor) -> Tensor:
        """Compute the evidence for any grade at all, ``[n]``; the OOD detector reads its negative.

        For ``k - 1`` yes/no logits it is their joint energy (Wang et al. 2021, arXiv:2109.14162).
        """
        return F.softplus(raw).sum(1)

    def penalty(self) -> Tensor:
        """Sum the squared weights, for the l2 term."""
        return self.weight.square().sum()

    @torch.no_grad()
    def fit_scale(self, head_input: Tensor) -> None:
        """Set mean and spread from the ``[n, f]`` input of the training pairs; keeps the order of an untrained head."""
        self.shift.copy_(head_input.mean(0))
        self.scale.copy_(head_input.std(0).clamp_min(1e-4) if len(head_input) > 1 else torch.ones_like(self.scale))


def to_grade_probs(above: Tensor) -> Tensor:
    """Turn ``P(grade > j)``, ``[n, k-1]``, into the probability of each grade, ``[n, k]``."""
    ones = torch.ones_like(above[:, :1])
    return torch.cat([ones, above], dim=1) - torch.cat([above, ones - ones], dim=1)


def fit_bias_correction(head: Head, head_input: Tensor, grades: Tensor, *, prior: float) -> tuple[float, Tensor]:
    """Fit one positive slope for all logits and a shift for each, by maximum likelihood.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599) with bias correction (Alexandari et al. 2020,
    arXiv:1901.06852). With more than two grades it can change the order of expected gains.

    :param head: is not changed.
    :param prior: weight of the pull towards slope 1 and shift 0.
    :return: the slope and the ``[m]`` shifts.
    """
    with torch.no_grad():
        raw = head(head_input).double()
    log_slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(raw.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_slope, shift], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        probs = head.grade_probs(raw * log_slope.exp() + shift)
        likelihood = probs.gather(1, grades[:, None]).squeeze(1)
        loss = -likelihood.clamp_min(1e-12).log().mean() + prior * (log_slope.square() + shift.square().sum())
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(log_slope.detach().exp()), shift.detach()
