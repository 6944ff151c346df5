"""Pairs as they are served: each item by the chunk that the current model scores best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trainer.stages.objective import predict
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs


@torch.no_grad()
def choose_chunks(features: Features, pairs: Pairs, chunks: Callable[[str], Sequence[str]]) -> Pairs:
    """Replace the item of each pair by its best-scoring chunk, ties to the first, as a scorer does.

    :param pairs: with the whole texts of items.
    :param chunks: cuts a text.
    :return: the same pairs in the same order, with the texts of chunks.
    """
    parts = [chunks(text) for text in pairs.items]
    sizes = torch.tensor([len(texts) for texts in parts])
    if not len(pairs.index) or int(sizes.max()) == 1:
        return pairs
    best = torch.full((len(pairs.index),), -torch.inf, dtype=torch.float64)
    chosen = torch.zeros(len(pairs.index), dtype=torch.long)
    for number in range(int(sizes.max())):  # one chunk of each item at a time, which bounds memory
        rows = torch.nonzero(sizes[pairs.index[:, 1]] > number).squeeze(1)
        part = _take(pairs, rows, [texts[number] if len(texts) > number else "" for texts in parts])
        apart = Features(features.model, device=str(features.device), precision=features.precision)
        latent = torch.from_numpy(predict(features.model.head, apart.of(part).head_input).latent)
        better = latent > best[rows]
        best[rows[better]], chosen[rows[better]] = latent[better], number
    places: dict[str, int] = {}
    for item, number in zip(pairs.index[:, 1].tolist(), chosen.tolist(), strict=True):
        places.setdefault(parts[item][number], len(places))
    items = [places[parts[i][n]] for i, n in zip(pairs.index[:, 1].tolist(), chosen.tolist(), strict=True)]
    index = torch.stack([pairs.index[:, 0], torch.tensor(items)], dim=1)
    return Pairs(pairs.queries, tuple(places), index, pairs.grades)


def _take(pairs: Pairs, rows: torch.Tensor, texts: Sequence[str]) -> Pairs:
    """Take some pairs, with other texts of their items, and only the items that they have."""
    used, items = pairs.index[rows, 1].unique(return_inverse=True)
    index = torch.stack([pairs.index[rows, 0], items], dim=1)
    return Pairs(pairs.queries, tuple(texts[i] for i in used.tolist()), index, torch.zeros(0, dtype=torch.long))
