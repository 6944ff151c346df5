"""Nearest neighbours among unit vectors: exact while that is cheap, by faiss's inverted lists beyond.

Beyond the bound only *who* the neighbours are is approximate; the similarities that are given are exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import load
from trainer.dasa.registry import Floats

EXACT_PRODUCTS = 4e9  # base rows times query rows up to which all are compared: a minute or two on 2 cores
COARSE_WIDTH = 96  # principal components that lists are searched by
PROBES = 12  # lists looked into
TRAINED_ROWS = 100_000
BLOCK_ROWS = 4096


def find_nearest(
    base: Floats, queries: Floats, k: int, *, exact_products: float = EXACT_PRODUCTS
) -> tuple[Floats, NDArray[np.int32]]:
    """Find each query's most similar rows.

    :param base: ``[m, h]`` float32 of unit length; may be memory-mapped.
    :param queries: ``[n, h]`` float32 of unit length; may be memory-mapped.
    :param k: how many, at most ``m``.
    :param exact_products: ``m * n`` up to which all are compared.
    :return: cosines ``[n, k]`` float32, highest first, and rows of ``base`` ``[n, k]`` int32; where the approximate
        search found fewer than ``k``, cosine -1 and row -1 fill up.
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
    """Build inverted lists over principal components, a byte each, which a million rows fit into."""
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
