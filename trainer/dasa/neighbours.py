"""Nearest neighbours among unit vectors: exact while that is cheap, then by faiss's inverted lists.

Beyond the bound, neighbours may be missed, but the similarities returned are exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import load
from trainer.dasa.registry import Floats

EXACT_PRODUCTS = 4e9  # maximum base rows times query rows for an exact search: a minute or two on 2 cores
COARSE_WIDTH = 96  # principal components in the inverted lists
PROBES = 12  # lists searched per query
TRAINED_ROWS = 100_000
BLOCK_ROWS = 4096


def find_nearest(
    base: Floats, queries: Floats, k: int, *, exact_products: float = EXACT_PRODUCTS
) -> tuple[Floats, NDArray[np.int32]]:
    """Find each query's most similar rows.

    :param base: ``[m, h]`` float32 of unit length; may be memory-mapped.
    :param queries: ``[n, h]`` float32 of unit length; may be memory-mapped.
    :param k: number of neighbours, at most ``m``.
    :param exact_products: maximum ``m * n`` for an exact search.
    :return: cosines ``[n, k]`` float32, highest first, and rows of ``base`` ``[n, k]`` int32, both padded with -1
        where the approximate search finds fewer than ``k``.
    """
    cosines = np.full((len(queries), k), -1.0, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int32)
    if not len(queries) or not k:
        return cosines, rows
    faiss: Any = load("faiss", "train")
    exact = len(base) * len(queries) <= exact_products or len(base) < 10_000
    index: Any = None if exact else _lists(faiss, base)
    whole = np.ascontiguousarray(base, dtype=np.float32) if exact else base
    for start in range(0, len(queries), BLOCK_ROWS):
        block = np.ascontiguousarray(queries[start : start + BLOCK_ROWS], dtype=np.float32)
        if exact:
            block_cosines, block_rows = faiss.knn(block, whole, k, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            block_rows = index.search(block, k)[1]
            block_cosines = np.einsum("nkh,nh->nk", base[np.maximum(block_rows, 0)], block)
            block_cosines[block_rows < 0] = -1.0
            order = np.argsort(-block_cosines, axis=1, kind="stable")
            block_cosines, block_rows = (
                np.take_along_axis(block_cosines, order, axis=1),
                np.take_along_axis(block_rows, order, axis=1),
            )
        cosines[start : start + len(block)], rows[start : start + len(block)] = block_cosines, block_rows
    return np.clip(cosines, -1.0, 1.0), rows


def _lists(faiss: Any, base: Floats) -> Any:
    """Build inverted lists over principal components of one byte each, small enough for a million rows."""
    count = 2 ** round(math.log2(2 * math.sqrt(len(base))))
    width = min(COARSE_WIDTH, base.shape[1])
    index = faiss.index_factory(base.shape[1], f"PCA{width},IVF{count},SQ8", faiss.METRIC_L2)
    lists = faiss.extract_index_ivf(index)
    lists.nprobe = min(PROBES, count)
    step = max(1, len(base) // TRAINED_ROWS)
    index.train(np.ascontiguousarray(base[::step], dtype=np.float32))
    for start in range(0, len(base), BLOCK_ROWS):
        index.add(np.ascontiguousarray(base[start : start + BLOCK_ROWS], dtype=np.float32))
    return index
