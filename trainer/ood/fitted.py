"""A fitted detector with its calibration: what the graph needs for its OOD columns."""

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
    """What the graph needs for its OOD columns."""

    detector: Any
    calibration: ConformalCalibration
    space: str
    report: dict[str, Any]
    layers: str = LAST

    def distance(self, features: PairFeatures, head: Head, raw: Tensor) -> Tensor:
        """Distance of pairs; the exported graph traces this very function.

        :param raw: ``[n, m]`` what the head says of them.
        """
        inputs = {
            "features": lambda: select_features(features, self.space, self.layers),
            "energy": lambda: head.energy(raw),
            "grade_probs": lambda: head.grade_probs(raw),
        }
        distance: Tensor = self.detector(*(inputs[name]() for name in self.detector.reads))
        return distance

    def of_sides(self, pooled: Tensor) -> Tensor:
        """What a text adds to a pair's distance, as its query and as its item; for a detector that adds halves.

        :param pooled: ``[n, h]`` the half that the detector reads.
        :return: ``[n, 2]``.
        """
        nothing = pooled.new_zeros(pooled.shape[0])
        places = {"query": (0, None), "item": (None, 0), "pair": (0, 1)}[self.space]
        return torch.stack([nothing if at is None else self.detector.of_half(at, pooled) for at in places], dim=1)
