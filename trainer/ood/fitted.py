"""A fitted detector with its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.models.base import LAST, PairFeatures
from trainer.models.heads import Head
from trainer.ood.calibration import ConformalCalibration
from trainer.ood.registry import select_features


@dataclass(frozen=True)
class FittedOod:
    """Detector and calibration for the graph's OOD columns.

    :param space: ``query``, ``item`` or ``pair``, see :func:`~trainer.ood.registry.select_features`.
    """

    detector: Any
    calibration: ConformalCalibration
    space: str
    report: dict[str, Any]
    layers: str = LAST

    def distance(self, features: PairFeatures, head: Head, raw: Tensor) -> Tensor:
        """Compute the distance of pairs; the exported graph traces this function.

        :param raw: ``[n, m]`` output of the head.
        """
        inputs = {
            "features": lambda: select_features(features, self.space, self.layers),
            "energy": lambda: head.energy(raw),
            "grade_probs": lambda: head.grade_probs(raw),
        }
        distance: Tensor = self.detector(*(inputs[name]() for name in self.detector.reads))
        return distance

    def of_sides(self, pooled: Tensor) -> Tensor:
        """Compute a text's part of a pair's distance as query and as item, for a detector that adds halves.

        :param pooled: ``[n, h]`` the half that the detector reads.
        :return: ``[n, 2]``.
        """
        zeros = pooled.new_zeros(pooled.shape[0])
        halves = {"query": (0, None), "item": (None, 0), "pair": (0, 1)}[self.space]
        return torch.stack([zeros if half is None else self.detector.of_half(half, pooled) for half in halves], dim=1)
