"""Reference sets: a bounded number of rows that represent all, sampled, spread out or averaged."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.ood.base import Chunks, fingerprints

CANDIDATES = 8  # candidate rows of coreset and kmeans per row kept
ROUNDS = 20  # maximum iterations of Lloyd's algorithm
BLOCK = 4096  # rows whose distances are in memory at a time


def sample(chunks: Chunks, size: int) -> Tensor:
    """Sample distinct rows uniformly: those with the smallest hashes.

    Bottom-k sampling (Cohen and Kaplan 2007, doi:10.1145/1281100.1281133): the sample does not depend on order, chunks
    or repetitions, and memory holds at most ``size`` rows besides a chunk.

    :return: ``[at most size, w]``, each row once.
    """
    sampled, prints = torch.zeros(0, 0), np.zeros(0, dtype=np.uint64)
    for chunk in chunks():
        rows = chunk[0]
        rows = torch.cat([sampled, rows]) if len(prints) else rows
        prints, first = np.unique(np.concatenate([prints, fingerprints(rows[len(prints) :])]), return_index=True)
        prints, first = prints[:size], first[:size]
        sampled = rows[torch.from_numpy(first)].clone()
    return sampled


def coreset(rows: Tensor, size: int) -> Tensor:
    """Choose rows such that every row is near a chosen one.

    Farthest-first traversal (Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5), as Sener and Savarese 2018,
    arXiv:1708.00489, choose what to label. It starts from the row nearest to the mean.

    :param rows: ``[m, w]`` of unit length.
    :return: ``[min(m, size), w]``.
    """
    if len(rows) <= size:
        return rows
    chosen = [int((rows @ rows.mean(0)).argmax())]
    gap = 1.0 - rows @ rows[chosen[0]]
    while len(chosen) < size:
        chosen.append(int(gap.argmax()))
        gap = torch.minimum(gap, 1.0 - rows @ rows[chosen[-1]])
    return rows[torch.tensor(chosen)]


def kmeans(rows: Tensor, size: int) -> Tensor:
    """Cluster rows by spherical k-means.

    Dhillon and Modha 2001, doi:10.1023/A:1007612920971, started from the first rows, which a sample has in random
    order. A group that loses all its rows keeps its centre.

    :param rows: ``[m, w]`` of unit length.
    :return: ``[min(m, size), w]`` centres of unit length.
    """
    if len(rows) <= size:
        return rows
    centres = rows[:size].clone()
    before = torch.full((len(rows),), -1)
    for _ in range(ROUNDS):
        group = assign_centres(rows, centres)
        if torch.equal(group, before):
            break
        before = group
        total = torch.zeros_like(centres).index_add_(0, group, rows)
        filled = torch.bincount(group, minlength=size)[:, None] > 0
        centres = torch.where(filled, F.normalize(total, dim=1, eps=1e-9), centres)
    return centres


def assign_centres(rows: Tensor, centres: Tensor) -> Tensor:
    """Find the nearest centre of each row, ``[m]`` int64."""
    return torch.cat([(part @ centres.T).argmax(1) for part in rows.split(BLOCK)])


def gather_reference(chunks: Chunks, size: int, how: str) -> Tensor:
    """Reduce rows to a bounded reference, ``[at most size, w]``; all distinct rows if they fit.

    :param how: ``sample``, ``coreset`` or ``kmeans``; the last two start from a sample of eight times the size.
    """
    if how == "sample":
        return sample(chunks, size)
    candidates = sample(chunks, CANDIDATES * size)
    return coreset(candidates, size) if how == "coreset" else kmeans(candidates, size)
