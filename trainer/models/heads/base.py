"""What every head offers: probabilities, a score, something to rank by, and a calibration of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.registry import Registry

HEADS: Registry[type[Head]] = Registry("head")
SMALLEST = 1e-6  # a probability's distance from 0 and 1 where its logit is taken


class Head(nn.Module, ABC):
    """Standardised input in, grades out.

    The untrained head reads the first column only and its score increases with it, so that a model starts by
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
        """What the grade loss reads.

        :param head_input: ``[n, f]`` float.
        :return: ``[n, m]`` float; what the columns mean is the head's own.
        """

    @abstractmethod
    def grade_probs(self, raw: Tensor) -> Tensor:
        """Probability of each grade.

        :param raw: ``[n, m]`` from :meth:`forward`.
        :return: ``[n, k]``, rows sum to 1.
        """

    @abstractmethod
    def start_from(self, rows: Tensor) -> None:
        """Start from one direction a grade, such as the rows of a language model's output for its words.

        :param rows: ``[k, f]`` float; the input's product with row ``g`` is evidence for grade ``g``.
        """

    @abstractmethod
    def calibrate(self, head_input: Tensor, grades: Tensor, *, prior: float) -> None:
        """Set the grades' probabilities by maximum likelihood on pairs that nothing was fitted on.

        :param head_input: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        :param prior: weight of the pull towards what is there, for grades that these pairs hardly have.
        """

    def standardised(self, head_input: Tensor) -> Tensor:
        """Bring the input to the training set's mean and spread.

        :param head_input: ``[n, f]`` float.
        :return: ``[n, f]``.
        """
        return (head_input - self.shift) / self.scale

    def score(self, raw: Tensor) -> Tensor:
        """Expected gain over the highest gain.

        :param raw: ``[n, m]`` from :meth:`forward`.
        :return: ``[n]`` in [0, 1].
        """
        return self.grade_probs(raw) @ self.gain

    def rank_score(self, raw: Tensor) -> Tensor:
        """What a rank loss reads: increasing in the score, without its bounds, so that no gradient dies.

        :param raw: ``[n, m]`` from :meth:`forward`.
        :return: ``[n]`` float.
        """
        low = float(self.gain[0])
        share = (self.score(raw) - low) / max(1.0 - low, SMALLEST)
        return torch.logit(share, eps=SMALLEST)

    def latent(self, head_input: Tensor) -> Tensor:
        """Relevance on one line, without bounds; orders as the score does, without its rounding.

        :param head_input: ``[n, f]`` float.
        :return: ``[n]`` float.
        """
        return self.rank_score(self(head_input))

    def energy(self, raw: Tensor) -> Tensor:
        """How much evidence there is for any grade at all; an OOD detector reads its negative.

        For ``k - 1`` yes/no logits it is their joint energy (Wang et al. 2021, arXiv:2109.14162).

        :param raw: ``[n, m]`` from :meth:`forward`.
        :return: ``[n]`` float.
        """
        return F.softplus(raw).sum(1)

    def penalty(self) -> Tensor:
        """Squared weight, for the l2 term.

        :return: ``[]`` float.
        """
        return self.weight.square().sum()

    @torch.no_grad()
    def standardise(self, head_input: Tensor) -> None:
        """Set shift and scale from the training pairs, keeping the order of an untrained head.

        :param head_input: ``[n, f]`` float.
        """
        self.shift.copy_(head_input.mean(0))
        self.scale.copy_(head_input.std(0).clamp_min(1e-4) if len(head_input) > 1 else torch.ones_like(self.scale))


def bias_corrected(head: Head, head_input: Tensor, grades: Tensor, *, prior: float) -> tuple[float, Tensor]:
    """One positive slope for all logits and one shift for each, by maximum likelihood.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599) with bias correction (Alexandari et al. 2020,
    arXiv:1901.06852). With more than two grades it can change the order of expected gains.

    :param head: the head, unchanged.
    :param head_input: ``[n, f]`` float.
    :param grades: ``[n]`` int64.
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
        given = probs.gather(1, grades[:, None]).squeeze(1)
        loss = -given.clamp_min(1e-12).log().mean() + prior * (log_slope.square() + shift.square().sum())
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(log_slope.detach().exp()), shift.detach()
