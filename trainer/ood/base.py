"""The interface of detectors, for the stage that fits them and the exported graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

Read = Literal["features", "energy", "grade_probs"]
# Each call yields all rows in chunks: tuples of the tensors that the detector reads.
Chunks = Callable[[], Iterable[tuple[Tensor, ...]]]

CHUNK = 4096  # rows per chunk


class Detector(nn.Module, ABC):
    """Distance of a pair from the training data, fitted on chunks of rows in bounded memory.

    A detector is made as ``make(width, halves=…, **params)``. ``reads`` lists the inputs of ``forward`` for ``n``
    pairs, in order: ``features`` ``[n, w]``, ``energy`` ``[n]``, ``grade_probs`` ``[n, k]``. With ``fits_catalogue``,
    ``fit`` also takes the rows of unjudged items. With ``adds_halves``, ``forward`` is ``join`` of the sum of
    ``of_half`` over the halves, so that an item's part can be computed once, and ``fit_half`` fits a half again.
    """

    reads: ClassVar[tuple[Read, ...]] = ("features",)
    fits_catalogue: ClassVar[bool] = False
    adds_halves: ClassVar[bool] = False

    @abstractmethod
    def fit(self, chunks: Chunks) -> None:
        """Fit on training rows, regardless of their order and of repetitions.

        :raises ValueError: if there are too few distinct ones.
        """

    def fit_half(self, half: int, chunks: Chunks) -> None:
        """Fit what rows of a half are compared with; the rest of the detector stays.

        :param chunks: of ``[m, h]`` float, rows of that half.
        :raises ValueError: if there are too few distinct ones.
        """
        raise NotImplementedError

    def of_half(self, half: int, features: Tensor) -> Tensor:
        """Compute a half's part of the distance, ``[n]`` float.

        :param features: ``[n, h]`` of that half.
        """
        raise NotImplementedError

    def join(self, total: Tensor) -> Tensor:
        """Turn the sum over the halves into a distance."""
        raise NotImplementedError

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a fitted ``state_dict`` of any shape, because the number of reference rows varies."""
        for name, value in tensors.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, value)


def add_halves(detector: Detector, halves: Iterable[Tensor]) -> Tensor:
    """Sum the halves' parts of a distance, ``[n]`` float."""
    return torch.stack([detector.of_half(half, part) for half, part in enumerate(halves)]).sum(0)


def fingerprints(rows: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Hash rows to ``[m]`` uint64.

    A seeded multilinear hash (Carter and Wegman 1979) finished by the mixer of SplitMix64 (Steele et al. 2014).
    """
    words = np.ascontiguousarray(rows.detach().float().numpy() + 0.0).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, size=words.shape[1], dtype=np.uint64) * 2 + 1
    with np.errstate(over="ignore"):
        mixed = (words * factors).sum(axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashes: np.ndarray[tuple[int], np.dtype[np.uint64]] = mixed ^ (mixed >> np.uint64(31))
    return hashes


def select_columns(chunks: Chunks, columns: slice) -> Chunks:
    """Select columns of each chunk's first tensor."""
    return lambda: ((chunk[0][:, columns],) for chunk in chunks())


def split_chunks(*tensors: Tensor, size: int = CHUNK) -> Chunks:
    """Split tensors in memory into chunks.

    :param *tensors: each ``[m, …]``, in the order in which the detector reads them.
    """
    return lambda: zip(*(tensor.split(size) for tensor in tensors), strict=True)


def drop_repeats(chunks: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Yield each row once, at its first occurrence; rows are compared by the first tensor. No chunk is empty.

    Eight bytes are kept per row, so a million rows take eight megabytes.
    """
    hashes = np.zeros(0, dtype=np.uint64)
    for chunk in chunks:
        prints, first = np.unique(fingerprints(chunk[0]), return_index=True)
        at = np.searchsorted(hashes, prints)
        fresh = np.ones(len(prints), dtype=bool)
        inside = at < len(hashes)
        fresh[inside] = hashes[at[inside]] != prints[inside]
        if fresh.any():
            hashes = np.union1d(hashes, prints[fresh])
            rows = torch.from_numpy(np.sort(first[fresh]))
            yield tuple(part[rows] for part in chunk)
