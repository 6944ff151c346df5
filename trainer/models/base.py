"""The interface of backbones, for losses, stages, detectors and export."""

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

HALVES = QUERY, ITEM = "query", "item"
LAST, AVERAGE = "last", "average"  # layers that a half is pooled from
CPU_TOKENS, GPU_TOKENS = 512, 32_768  # a CPU is fastest with small passes, a GPU with few large ones


@dataclass(frozen=True)
class PairFeatures:
    """A backbone's view of some pairs.

    :param head_input: ``[n, f]`` what the head reads.
    :param halves: unit-length embeddings ``[n, h]`` for OOD detection and selection: of query and item if the backbone
        reads them separately, otherwise of the pair.
    :param averaged: the same from the mean of the encoder's layers (Chen et al. 2022, arXiv:2210.07485); empty unless
        requested.
    """

    head_input: Tensor
    halves: tuple[Tensor, ...]
    averaged: tuple[Tensor, ...] = ()

    @property
    def query(self) -> Tensor:
        """``[n, h]`` query half, if the backbone has halves."""
        return self.halves[0]

    @property
    def item(self) -> Tensor:
        """``[n, h]`` item half, if the backbone has halves."""
        return self.halves[1]


@dataclass(frozen=True)
class FeatureTable:
    """Features of many pairs, with each distinct half stored once.

    :param head_input: ``[n, f]`` what the head reads.
    :param tables: for each half, ``[m, h]`` unit-length embeddings of the distinct texts.
    :param rows: ``[n, number of halves]`` int64, each pair's row in each table.
    :param averaged: tables of the averaged layers; empty unless requested.
    """

    head_input: Tensor
    tables: tuple[Tensor, ...]
    rows: Tensor
    averaged: tuple[Tensor, ...] = ()

    def expand(self) -> PairFeatures:
        """Look up the halves of each pair."""
        halves, averaged = (
            tuple(table[self.rows[:, i]] for i, table in enumerate(tables)) for tables in (self.tables, self.averaged)
        )
        return PairFeatures(self.head_input, halves, averaged)


class Backbone(Protocol):
    """Turns pairs into features; a head turns those into grades.

    It is on the CPU, except within :func:`trainer.models.device.on`; methods without gradient always return tensors on
    the CPU.
    """

    encoder: Any  # the transformers module; export reads its config
    head: Head
    halves: int  # 2: reads query and item separately; 1: together
    standardises: bool  # whether a head stage may bring the features to mean 0 and spread 1
    quantises: bool  # whether its scores survive dynamic int8 quantisation

    @property
    def width(self) -> int:
        """Size of an embedding of :class:`PairFeatures`."""

    @classmethod
    def from_base(cls, config: Config, head: str) -> Backbone:
        """Make an untrained model from the checkpoint ``[model] base``, in evaluation mode.

        :param config: the whole configuration; a backbone reads its own tables.
        :raises DarlError: if the base cannot be loaded, or does not fit the configuration.
        """

    @classmethod
    def load(cls, folder: Path, config: Config | None = None) -> Backbone:
        """Load a model written by :meth:`save`, in evaluation mode.

        :param config: how training goes on; None: as it was. Only the adapters of a language model depend on it.
        """

    def fit_texts(self, items: Iterable[str]) -> None:
        """Fit statistics of the catalogue that need no labels, such as token frequencies."""

    def pair_features(self, queries: Sequence[str], items: Sequence[str], *, layers: str = ...) -> PairFeatures:
        """Encode ``n`` pairs of texts, on the model's device and with gradient in training mode.

        :param items: rendered.
        :param layers: ``average``: also compute the averaged halves.
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
        :param layers: ``average``: also compute the averaged halves.
        :param advance: called with the number of texts just encoded, or of pairs if they are read together.
        """

    def pool_texts(
        self, texts: Sequence[str], half: str, *, layers: str = ..., advance: Callable[[int], object] = ...
    ) -> Tensor:
        """Encode halves alone, without gradient; only if ``halves`` is 2.

        :param texts: queries or rendered items.
        :param half: which of them: ``query`` or ``item``.
        :param layers: pool the ``last`` layer or the ``average`` of layers.
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
        :param layers: ``average``: also compute the averaged halves.
        """

    def encoder_parameters(self) -> list[Any]:
        """List the trained parameters below the head."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights and buffers that training changes, by name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Restore weights and buffers from :meth:`state_dict`."""

    def tokenizer(self) -> Tokenizer:
        """Return the pair tokenizer for the bundle."""

    def exporting(self) -> AbstractContextManager[None]:
        """Use only operations that the ONNX exporter can trace while the context is open."""

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer; adapters are merged."""


def average_layers(states: Sequence[Tensor]) -> Tensor:
    """Average an encoder's layers, ``[n, s, h]``.

    :param states: ``[n, s, h]`` each: the embeddings, which are left out, then the layers.
    """
    return torch.stack(list(states[1:])).mean(0)


def token_budget(device: torch.device) -> int:
    """Choose the maximum tokens per pass, including padding."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


BACKBONES: Registry[Any] = Registry("backbone")
