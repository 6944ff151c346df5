"""A fitted detector with its calibration."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.models.base import LAST, PairFeatures
from trainer.models.heads import Head
from trainer.ood.base import split_chunks
from trainer.ood.calibration import ConformalCalibration
from trainer.ood.registry import select_features

# The detector's half that reads the query, and the one that reads the item, by space.
_HALVES: dict[str, tuple[int | None, int | None]] = {"query": (0, None), "item": (None, 0), "pair": (0, 1)}


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
        parts = [zeros if half is None else self.detector.of_half(half, pooled) for half in _HALVES[self.space]]
        return torch.stack(parts, dim=1)

    def refit_sides(self, *rows: Tensor) -> FittedOod:
        """Fit each half again on training texts as another graph encodes them.

        :param *rows: ``[m, h]`` of queries, then of items.
        :raises ValueError: if a half has too few distinct rows.
        """
        detector = copy.deepcopy(self.detector)
        for half, part in zip(_HALVES[self.space], rows, strict=True):
            if half is not None:
                detector.fit_half(half, split_chunks(part))
        return dataclasses.replace(self, detector=detector)
