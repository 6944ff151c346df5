"""Cached features of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.models.base import AVERAGE, LAST, Backbone, FeatureTable
from trainer.models.device import choose_device, on
from trainer.training_data.pairs import Pairs


class Features:
    """Features of sets of pairs, encoded once as long as the encoder does not change.

    :param advance: called with the number of texts just encoded.
    :param device: device of the encoder; features are always on the CPU.
    """

    def __init__(
        self, model: Backbone, advance: Callable[[int], object] = lambda n: None, *, device: str = "auto"
    ) -> None:
        self.model, self.advance, self.device = model, advance, choose_device(device)
        self._tables: dict[tuple[bytes, str], FeatureTable] = {}
        self._halves: dict[str, dict[str, Tensor]] = {}  # by layers, then by text

    def of(self, pairs: Pairs, *, layers: str = LAST) -> FeatureTable:
        """Features of some pairs by the current encoder; of equal pairs, those that are known.

        :param layers: ``average``: also the averaged halves.
        """
        if (key := (pairs.digest, layers)) not in self._tables:
            with on(self.model, self.device):
                table = self.model.feature_table(
                    pairs.queries, pairs.items, pairs.index, layers=layers, advance=self.advance
                )
            self._tables[key] = table
            if self.model.halves == 2:
                for texts, rows in zip((pairs.queries, pairs.items), table.tables, strict=True):
                    self._halves.setdefault(LAST, {}).update(zip(texts, rows, strict=True))
        return self._tables[key]

    def apart(self, texts: Sequence[str], *, layers: str = LAST) -> Tensor:
        """Features of single queries or items, ``[n, h]`` of unit length, by a backbone that encodes them separately.

        :param layers: ``last`` or ``average``.
        """
        encoded = self._halves.setdefault(layers, {})
        if fresh := [text for text in dict.fromkeys(texts) if text not in encoded]:
            with on(self.model, self.device):
                encoded.update(
                    zip(fresh, self.model.pool_texts(fresh, layers=layers, advance=self.advance), strict=True)
                )
        width = int(self.model.encoder.config.hidden_size)
        return torch.stack([encoded[text] for text in texts]) if texts else torch.zeros(0, width)

    def tables(self, pairs: Pairs, *, layers: str = LAST) -> tuple[tuple[Tensor, ...], Tensor]:
        """Distinct halves of some pairs, without their token-level similarities.

        :param layers: ``last`` or ``average``.
        :return: for each half its distinct rows ``[m, h]``, and ``[n, halves]`` the pairs' rows in them.
        """
        if self.model.halves == 2:
            both = self.apart([*pairs.queries, *pairs.items], layers=layers)  # together, to move the model only once
            return (both[: len(pairs.queries)], both[len(pairs.queries) :]), pairs.index
        table = self.of(pairs, layers=layers)
        return (table.averaged if layers == AVERAGE else table.tables), table.rows

    def forget(self) -> None:
        """Drop all features, after a change of the encoder."""
        self._tables, self._halves = {}, {}

    def remember(self) -> Callable[[], None]:
        """Return a function that restores the present features, for when the encoder is rolled back."""
        tables, halves = self._tables, self._halves

        def restore() -> None:
            self._tables, self._halves = tables, halves

        return restore
