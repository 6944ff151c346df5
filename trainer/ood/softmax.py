"""Maximum softmax probability of the head."""

from __future__ import annotations

from torch import Tensor

from trainer.ood.base import Chunks, Detector
from trainer.ood.registry import DETECTORS


@DETECTORS.register("max_softmax", cite="Hendrycks and Gimpel 2017, arXiv:1610.02136")
class MaxSoftmax(Detector):
    """One minus the probability of the most likely grade: a baseline."""

    reads = ("grade_probs",)

    def __init__(self, width: int, *, halves: int = 1) -> None:
        super().__init__()

    def fit(self, chunks: Chunks) -> None:
        """Do nothing: there is nothing to fit."""

    def forward(self, grade_probs: Tensor) -> Tensor:
        """Return the probability of all other grades, ``[n]`` float in [0, 1)."""
        return 1.0 - grade_probs.amax(dim=1)
