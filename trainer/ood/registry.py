"""The registry of detectors, and their feature spaces."""

from __future__ import annotations

import torch
from torch import Tensor

from darl_opensearch.errors import UsageError
from trainer.models.base import AVERAGE, PairFeatures
from trainer.ood.base import Detector
from trainer.registry import Registry

DETECTORS: Registry[type[Detector]] = Registry("detector")
FEATURES = ("query", "item", "pair")


def count_halves(space: str, backbone: int) -> int:
    """Count the halves of a feature space.

    :param backbone: halves that the backbone encodes separately, 1 or 2.
    :raises UsageError: for a half that the backbone does not have.
    """
    if space == "pair":
        return backbone
    if backbone == 1:
        raise UsageError(
            f"[ood] features is {space!r}, but this backbone encodes query and item together", todo="choose pair"
        )
    return 1


def select_features(features: PairFeatures, space: str, layers: str = "last") -> Tensor:
    """Select the features that a detector reads.

    :param space: ``query`` or ``item`` (one half), or ``pair`` (all halves side by side).
    :param layers: ``last``, or ``average``: halves of the averaged layers, which the features must include.
    :return: ``[n, h]`` or ``[n, 2h]``, each half of unit length.
    """
    sides = features.averaged if layers == AVERAGE else features.halves
    if space == "query":
        return sides[0]
    if space == "item":
        return sides[1]
    return torch.cat(sides, dim=1)
