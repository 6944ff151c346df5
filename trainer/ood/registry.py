"""The detectors, and the feature spaces they can read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.models.base import PairFeatures
from trainer.registry import Registry

DETECTORS: Registry[Any] = Registry("detector")
FEATURES = ("query", "item", "pair")


def halves(space: str) -> int:
    """Count the halves that a feature space holds.

    :param space: ``query``, ``item`` or ``pair``.
    :return: 1 or 2.
    """
    return 2 if space == "pair" else 1


def view(features: PairFeatures, space: str) -> Tensor:
    """Select the features that a detector reads.

    :param features: of ``n`` pairs.
    :param space: ``query`` or ``item`` (one half), or ``pair`` (both side by side).
    :return: ``[n, h]`` or ``[n, 2h]``, each half of unit length.
    """
    if space == "query":
        return features.query
    if space == "item":
        return features.item
    return torch.cat([features.query, features.item], dim=1)
