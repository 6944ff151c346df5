"""How unsure the head is of the grade."""

from __future__ import annotations

from torch import Tensor

from trainer.ood.base import Chunks, Detector
from trainer.ood.registry import DETECTORS


@DETECTORS.register("max_softmax", cite="Hendrycks and Gimpel 2017, arXiv:1610.02136")
class MaxSoftmax(Detector):
    """One less the probability of the likeliest grade: a baseline."""

    reads = ("grade_probs",)

    def __init__(self, width: int, *, halves: int = 1) -> None:
        super().__init__()

    def fit(self, chunks: Chunks) -> None:
        """Nothing to fit."""

    def forward(self, grade_probs: Tensor) -> Tensor:
        """Probability of all other grades.

        :param grade_probs: ``[n, k]``.
        :return: ``[n]`` float in [0, 1).
        """
        return 1.0 - grade_probs.amax(dim=1)
