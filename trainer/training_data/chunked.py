"""Items that are scored in chunks, as training sees them: by their first.

The best chunk depends on the model, so a loss on it would chase its own choice, and a grade says that some part of an
item is relevant, not which one. So the model learns from the first chunk, as without chunks, and everything that is
calibrated or measured after the stages reads items as they are served, see :mod:`trainer.stages.served`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from darl_opensearch.records.items import Item
from darl_opensearch.text import ItemRenderer


class FirstChunks(Mapping[str, Item]):
    """Items with the text of their first chunk.

    :param whole: the items with the text of all chunks.
    """

    def __init__(self, whole: Mapping[str, Item], renderer: ItemRenderer) -> None:
        self.whole, self.renderer = whole, renderer

    def __len__(self) -> int:
        return len(self.whole)

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.whole

    def __getitem__(self, item_id: str) -> Item:
        item = self.whole[item_id]
        return dataclasses.replace(item, text=self.renderer.chunks(item.text)[0])
