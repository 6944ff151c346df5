"""A fitted detector with its calibration: what the graph needs for its OOD columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
