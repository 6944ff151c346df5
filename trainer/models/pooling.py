"""Pooling token states to one vector, and the layers after it, as sentence-transformers builds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, CLS = "mean", "cls"
POOLING = (MEAN, CLS)
# Of torch.nn; those that a description can name without parameters.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU", "Mish", "Softplus")


class Normalize(nn.Module):
    """Scales vectors to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Scale ``[n, h]`` vectors."""
        return F.normalize(vectors, dim=-1, eps=1e-9)


class Projection(nn.Sequential):
    """The layers that a base has after its pooling; without layers it changes nothing.

    :param steps: a description of each layer, JSON-ready: ``type`` is ``Dense`` (with ``in_features``,
        ``out_features``, ``bias`` and ``activation``), ``LayerNorm`` (with ``dimension``) or ``Normalize``.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(*map(_make, steps))
        self.steps = [dict(step) for step in steps]

    def forward(self, vectors: Tensor) -> Tensor:
        """Apply the layers to ``[n, h]`` vectors."""
        if not self.steps:
            return vectors
        # With three axes a product is exported as MatMul: int8 quantisation transposes a Gemm's weights for each half.
        rows = vectors[:, None, :]
        for layer in self:
            rows = layer(rows)
        return rows.squeeze(1)

    def width(self, width: int) -> int:
        """Compute the size of the output.

        :param width: size of the input.
        """
        return next((int(step["out_features"]) for step in reversed(self.steps) if "out_features" in step), width)


def _make(step: Mapping[str, Any]) -> nn.Module:
    if step["type"] == "Dense":
        linear = nn.Linear(step["in_features"], step["out_features"], bias=step["bias"])
        return nn.Sequential(linear, getattr(nn, step["activation"])())
    return nn.LayerNorm(step["dimension"]) if step["type"] == "LayerNorm" else Normalize()


def pool(
    states: Tensor, mask: Tensor, position_ids: Tensor, *, pooling: str, prompt: int = 0, include_prompt: bool = True
) -> Tensor:
    """Pool token states.

    :param states: ``[n, s, h]``.
    :param mask: ``[n, s]`` float, 1 for the tokens to pool.
    :param position_ids: ``[n, s]`` int64, 0 at the first of these tokens.
    :param pooling: ``mean`` or ``cls``.
    :param prompt: number of the prompt's tokens, after the first token.
    :param include_prompt: whether the mean is over the prompt too; if not, it is over neither prompt nor first token,
        as in sentence-transformers.
    :return: ``[n, h]``.
    """
    if pooling == CLS:
        mask = mask * (position_ids == 0).to(mask)
    elif prompt and not include_prompt:
        mask = mask * (position_ids > prompt).to(mask)
    # A matrix product instead of a masked sum: half the memory, and one operator in the graph.
    return torch.bmm(mask[:, None, :], states).squeeze(1) / mask.sum(1, keepdim=True).clamp_min(1.0)
