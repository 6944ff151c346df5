"""What every backbone offers to losses, stages, detectors and the export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer
from torch import Tensor

from trainer.models.head import CumulativeHead
from trainer.registry import Registry


@dataclass(frozen=True)
class PairFeatures:
    """A backbone's view of some pairs.

    :param similarity: ``[n, f]`` what the head reads.
    :param query: ``[n, h]`` unit-length query half.
    :param item: ``[n, h]`` unit-length item half.
    """

    similarity: Tensor
    query: Tensor
    item: Tensor


@dataclass(frozen=True)
class FeatureTable:
    """Features of many pairs over few distinct texts.

    :param similarity: ``[n, f]`` what the head reads.
    :param queries: ``[q, h]`` unit-length query halves.
    :param items: ``[m, h]`` unit-length item halves.
    :param pairs: ``[n, 2]`` int64, rows of queries and items.
    """

    similarity: Tensor
    queries: Tensor
    items: Tensor
    pairs: Tensor

    def rows(self) -> PairFeatures:
        """Spell the features out pair by pair.

        :return: ``n`` rows.
        """
        return PairFeatures(self.similarity, self.queries[self.pairs[:, 0]], self.items[self.pairs[:, 1]])


class Backbone(Protocol):
    """Turns pairs into features; a head turns those into grades."""

    head: CumulativeHead

    def pair_features(self, queries: Sequence[str], items: Sequence[str]) -> PairFeatures:
        """Encode pairs of texts, with gradient where the module trains.

        :param queries: ``n`` queries.
        :param items: ``n`` rendered items.
        :return: their features.
        """

    def feature_table(
        self,
        queries: Sequence[str],
        items: Sequence[str],
        pairs: Tensor,
        *,
        advance: Callable[[int], object] = ...,
    ) -> FeatureTable:
        """Encode many pairs without gradient, in bounded memory.

        :param queries: distinct queries.
        :param items: distinct rendered items.
        :param pairs: ``[n, 2]`` int64, rows of ``queries`` and ``items``.
        :param advance: called with the number of texts just encoded.
        :return: the features.
        """

    def pooled(self, texts: Sequence[str], *, advance: Callable[[int], object] = ...) -> Tensor:
        """Encode halves alone, without gradient, for what needs no token similarities.

        :param texts: queries or rendered items.
        :param advance: called with the number of texts just encoded.
        :return: ``[n, h]`` of unit length.
        """

    def forward_features(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> PairFeatures:
        """Encode pair sequences, as the exported graph does.

        :param input_ids: ``[n, s]`` int64.
        :param attention_mask: ``[n, s]`` int64.
        :param token_type_ids: ``[n, s]`` int64, 0 for the query half and 1 for the item half.
        :return: their features.
        """

    def encoder_parameters(self) -> list[Any]:
        """Parameters below the head."""

    def state_dict(self) -> dict[str, Tensor]:
        """Every weight and buffer, by name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Put weights and buffers back.

        :param state_dict: what :meth:`state_dict` gave.
        :return: torch's report on the keys.
        """

    def tokenizer(self) -> Tokenizer:
        """The pair tokenizer that goes into the bundle."""

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer.

        :param folder: an existing folder.
        """


BACKBONES: Registry[Any] = Registry("backbone")
