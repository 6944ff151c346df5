"""What every backbone offers to losses, stages, detectors and the export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from trainer.config import Config
from trainer.models.heads import Head
from trainer.registry import Registry

LAST, AVERAGE = "last", "average"  # layers of which a half is pooled


@dataclass(frozen=True)
class PairFeatures:
    """A backbone's view of some pairs.

    :param head_input: ``[n, f]`` what the head reads.
    :param halves: unit-length embeddings ``[n, h]`` for OOD detection and selection: of query and item where the
        backbone reads them apart, of the pair alone where it reads them together.
    :param averaged: the same from the mean of the encoder's layers, where that was asked for (Chen et al. 2022,
        arXiv:2210.07485), else empty.
    """

    head_input: Tensor
    halves: tuple[Tensor, ...]
    averaged: tuple[Tensor, ...] = ()

    @property
    def query(self) -> Tensor:
        """``[n, h]`` the query half, of a backbone that has one."""
        return self.halves[0]

    @property
    def item(self) -> Tensor:
        """``[n, h]`` the item half, of a backbone that has one."""
        return self.halves[1]


@dataclass(frozen=True)
class FeatureTable:
    """Features of many pairs over fewer distinct halves.

    :param head_input: ``[n, f]`` what the head reads.
    :param tables: for each half, ``[m, h]`` unit-length embeddings of the distinct ones.
    :param rows: ``[n, number of halves]`` int64, each pair's row in each table.
    :param averaged: tables of the averaged layers, where those were asked for, else empty.
    """

    head_input: Tensor
    tables: tuple[Tensor, ...]
    rows: Tensor
    averaged: tuple[Tensor, ...] = ()

    def spelt_out(self) -> PairFeatures:
        """Spell the features out pair by pair.

        :return: ``n`` rows.
        """
        halves, averaged = (
            tuple(table[self.rows[:, i]] for i, table in enumerate(tables)) for tables in (self.tables, self.averaged)
        )
        return PairFeatures(self.head_input, halves, averaged)


class Backbone(Protocol):
    """Turns pairs into features; a head turns those into grades.

    It lives on the CPU, but while :func:`trainer.models.device.on` has it elsewhere; what it returns from the
    methods without gradient is on the CPU always.
    """

    encoder: Any  # the transformers module; the export reads its config
    head: Head
    halves: int  # 2: it reads query and item apart; 1: together
    standardises: bool  # whether a head stage may bring the features to mean 0 and spread 1
    quantises: bool  # whether dynamic int8 keeps its scores

    @classmethod
    def from_base(cls, config: Config, head: str) -> Backbone:
        """Start from what ``[model] base`` names.

        :param config: the whole configuration; a backbone reads its own tables of it.
        :return: the untrained model, in evaluation mode.
        :raises DarlError: when the base cannot be loaded, or does not fit the configuration.
        """

    @classmethod
    def load(cls, folder: Path) -> Backbone:
        """Read what :meth:`save` wrote.

        :return: the same model, in evaluation mode.
        """

    def fit_texts(self, items: Iterable[str]) -> None:
        """Learn what needs no labels from the catalogue, such as how rare a token is."""

    def pair_features(self, queries: Sequence[str], items: Sequence[str], *, layers: str = ...) -> PairFeatures:
        """Encode pairs of texts, with gradient where the module trains.

        :param queries: ``n`` queries.
        :param items: ``n`` rendered items.
        :param layers: ``average``: also give the averaged halves.
        :return: their features, on the model's device.
        """

    def feature_table(
        self,
        queries: Sequence[str],
        items: Sequence[str],
        pairs: Tensor,
        *,
        layers: str = ...,
        advance: Callable[[int], object] = ...,
    ) -> FeatureTable:
        """Encode many pairs without gradient, in bounded memory.

        :param pairs: ``[n, 2]`` int64, rows of ``queries`` and ``items``.
        :param layers: ``average``: also give the averaged halves.
        :param advance: called with the number of texts, or pairs read together, just encoded.
        """

    def pooled(self, texts: Sequence[str], *, layers: str = ..., advance: Callable[[int], object] = ...) -> Tensor:
        """Encode halves alone, without gradient; only where ``halves`` is 2.

        :param texts: queries or rendered items.
        :param layers: which are pooled: the ``last`` or their ``average``.
        :param advance: called with the number of texts just encoded.
        :return: ``[n, h]`` of unit length.
        """

    def forward_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, layers: str = ...
    ) -> PairFeatures:
        """Encode pair sequences, as the exported graph does.

        :param input_ids: ``[n, s]`` int64.
        :param attention_mask: ``[n, s]`` int64.
        :param token_type_ids: ``[n, s]`` int64, 0 for the query half and 1 for the item half.
        :param layers: ``average``: also give the averaged halves.
        """

    def encoder_parameters(self) -> list[Any]:
        """Parameters below the head that training changes."""

    def state_dict(self) -> dict[str, Tensor]:
        """Every weight and buffer that training changes, by name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Put weights and buffers back.

        :param state_dict: what :meth:`state_dict` gave.
        """

    def tokenizer(self) -> Tokenizer:
        """The pair tokenizer that goes into the bundle."""

    def exporting(self) -> AbstractContextManager[None]:
        """Compute by operations that a tracer can follow, for as long as the context is open."""

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer; adapters are merged."""


def layer_mean(states: Sequence[Tensor]) -> Tensor:
    """Average the states of an encoder's layers.

    :param states: ``[n, s, h]`` of the embeddings, then of each layer.
    :return: ``[n, s, h]`` the mean of the layers' states, without the embeddings'.
    """
    return torch.stack(list(states[1:])).mean(0)


BACKBONES: Registry[Any] = Registry("backbone")
