"""Energy of the head: high if it has little evidence for any grade."""

from __future__ import annotations

from torch import Tensor

from trainer.ood.base import Chunks, Detector
from trainer.ood.registry import DETECTORS


@DETECTORS.register(
    "energy",
    cite="Liu et al. 2020, arXiv:2010.03759; of ordinal heads the joint energy: Wang et al. 2021, arXiv:2109.14162",
)
class Energy(Detector):
    """Energy of the head's logits."""

    reads = ("energy",)

    def __init__(self, width: int, *, halves: int = 1) -> None:
        super().__init__()

    def fit(self, chunks: Chunks) -> None:
        """Do nothing: there is nothing to fit."""

    def forward(self, energy: Tensor) -> Tensor:
        """Negate the evidence.

        :param energy: ``[n]`` float, of :meth:`trainer.models.heads.base.Head.energy`.
        """
        return -energy
