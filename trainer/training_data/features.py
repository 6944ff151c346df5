"""Cached features of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from darl_opensearch.io.progress import begin_step
from trainer.models.base import AVERAGE, HALVES, LAST, Backbone, FeatureTable
from trainer.models.device import autocast, choose_device, on
from trainer.training_data.pairs import Pairs


class Features:
    """Features of sets of pairs, encoded once as long as the encoder does not change.

    :param device: device of the encoder; features are always on the CPU.
    :param precision: of the encoder's passes: ``fp32``, or ``bf16`` by autocast.
    """

    def __init__(
        self,
        model: Backbone,
        *,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        self.model, self.device, self.precision = model, choose_device(device), precision
        self._tables: dict[tuple[bytes, str], FeatureTable] = {}
        self._halves: dict[tuple[str, str], dict[str, Tensor]] = {}  # by half and layers, then by text

    def of(self, pairs: Pairs, *, layers: str = LAST) -> FeatureTable:
        """Features of some pairs by the current encoder; of equal pairs, those that are known.

        :param layers: ``average``: also the averaged halves.
        """
        if (key := (pairs.digest, layers)) not in self._tables:
            apart = self.model.halves == 2
            with self._encoding(len(pairs.queries) + len(pairs.items) if apart else len(pairs.index)) as advance:
                table = self.model.feature_table(
                    pairs.queries, pairs.items, pairs.index, layers=layers, advance=advance
                )
            self._tables[key] = table
            if apart:
                for half, texts, rows in zip(HALVES, (pairs.queries, pairs.items), table.tables, strict=True):
                    self._halves.setdefault((half, LAST), {}).update(zip(texts, rows, strict=True))
        return self._tables[key]

    def apart(self, queries: Sequence[str], items: Sequence[str], *, layers: str = LAST) -> tuple[Tensor, Tensor]:
        """Features of single queries and items, by a backbone that encodes them separately.

        :param layers: ``last`` or ``average``.
        :return: ``[n, h]`` of unit length, of the queries and of the items.
        """
        known = [self._halves.setdefault((half, layers), {}) for half in HALVES]
        sides = list(zip(HALVES, (queries, items), known, strict=True))
        fresh = [[text for text in dict.fromkeys(texts) if text not in rows] for _, texts, rows in sides]
        if any(fresh):
            with self._encoding(sum(map(len, fresh))) as advance:  # once for both
                for (half, _, rows), new in zip(sides, fresh, strict=True):
                    pooled = self.model.pool_texts(new, half, layers=layers, advance=advance)
                    rows.update(zip(new, pooled, strict=True))
        empty = torch.zeros(0, self.model.width)
        query, item = (torch.stack([rows[text] for text in texts]) if texts else empty for _, texts, rows in sides)
        return query, item

    def tables(self, pairs: Pairs, *, layers: str = LAST) -> tuple[tuple[Tensor, ...], Tensor]:
        """Distinct halves of some pairs, without their token-level similarities.

        :param layers: ``last`` or ``average``.
        :return: for each half its distinct rows ``[m, h]``, and ``[n, halves]`` the pairs' rows in them.
        """
        if self.model.halves == 2:
            return self.apart(pairs.queries, pairs.items, layers=layers), pairs.index
        table = self.of(pairs, layers=layers)
        return (table.averaged if layers == AVERAGE else table.tables), table.rows

    @contextmanager
    def _encoding(self, total: int) -> Iterator[Callable[[int], object]]:
        """Prepare for encoding, and show its progress.

        :param total: texts to encode, or pairs if they are read together.
        """
        with (
            begin_step("encoding texts" if self.model.halves == 2 else "encoding pairs", total) as advance,
            on(self.model, self.device),
            autocast(self.device, self.precision),
        ):
            yield advance

    def forget(self) -> None:
        """Drop all features, after a change of the encoder."""
        self._tables, self._halves = {}, {}

    def remember(self) -> Callable[[], None]:
        """Return a function that restores the present features, for when the encoder is rolled back."""
        tables, halves = self._tables, self._halves

        def restore() -> None:
            self._tables, self._halves = tables, halves

        return restore
