"""The detectors, and the feature spaces they can read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from darl_opensearch.errors import UsageError
from trainer.models.base import PairFeatures
from trainer.registry import Registry

DETECTORS: Registry[Any] = Registry("detector")
FEATURES = ("query", "item", "pair")


def halves(space: str, backbone: int) -> int:
    """Count the halves that a feature space holds.

    :param space: ``query``, ``item`` or ``pair``.
    :param backbone: halves that the backbone reads apart, 1 or 2.
    :return: 1 or 2.
    :raises UsageError: for a half that the backbone does not have.
    """
    if space == "pair":
        return backbone
    if backbone == 1:
        raise UsageError(
            f"[ood] features is {space!r}, and this backbone reads query and item together", todo="choose pair"
        )
    return 1


def view(features: PairFeatures, space: str) -> Tensor:
    """Select the features that a detector reads.

    :param features: of ``n`` pairs.
    :param space: ``query`` or ``item`` (one half), or ``pair`` (all there are side by side).
    :return: ``[n, h]`` or ``[n, 2h]``, each half of unit length.
    """
    if space == "query":
        return features.query
    if space == "item":
        return features.item
    return torch.cat(features.halves, dim=1)
