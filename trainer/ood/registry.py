"""The detectors, and the feature spaces they can read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainer.models.base import PairFeatures
from trainer.registry import Registry

DETECTORS: Registry[Any] = Registry("detector")
FEATURES = ("query", "item", "pair")


def view(features: PairFeatures, space: str) -> Tensor:
    """Select the features that a detector reads.

    :param features: of ``n`` pairs.
    :param space: ``query`` or ``item`` (one half), or ``pair`` (both, so that squared distances average).
    :return: ``[n, h]`` or ``[n, 2h]``, rows of unit length.
    """
    if space == "query":
        return features.query
    if space == "item":
        return features.item
    return torch.cat([features.query, features.item], dim=1) / math.sqrt(2.0)
