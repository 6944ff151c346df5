"""One item's half as it is kept: token states in eight bits, the pooled half in float."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 1  # part of every key: another layout never meets these bytes
_HEADER = struct.Struct("<IHHHxx")  # CRC-32 of key and rest, tokens, width, pooled vectors
LEVELS, ZERO = 127, 128
# Of a query's tokens. Without VNNI a CPU adds two products of eight bits in sixteen, and stops at their bounds:
# 255 x 63 x 2 is within them, 255 x 127 x 2 is not.
QUERY_LEVELS = 63


def round_states(states: NDArray[np.float32], levels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Round token states to whole numbers.

    :param states: ``[s, h]``.
    :return: ``[s, h]`` from ``-levels`` to ``levels``, and ``[s]`` what one level is.
    """
    scales = (np.abs(states).max(axis=1) / levels).clip(min=1e-12).astype(np.float32)
    return np.rint(states / scales[:, None]), scales


@dataclass(frozen=True)
class ItemState:
    """An item's half: what a query meets.

    :param tokens: ``[s, h]`` uint8 token states of unit length: 128 more than the state divided by its scale.
    :param scales: ``[s]`` float32.
    :param content: ``[s]`` bool, False for special tokens.
    :param pooled: ``[v, h]`` float32 of unit length: the last layer's half, then that of the averaged layers where
        the detector reads it.
    """

    tokens: NDArray[np.uint8]
    scales: NDArray[np.float32]
    content: NDArray[np.bool_]
    pooled: NDArray[np.float32]

    @classmethod
    def of(cls, states: NDArray[np.float32], content: NDArray[np.bool_], pooled: NDArray[np.float32]) -> ItemState:
        """Round token states to eight bits.

        :param states: ``[s, h]`` of unit length.
        """
        rounded, scales = round_states(states, LEVELS)
        return cls((rounded + ZERO).astype(np.uint8), scales, content, pooled.astype(np.float32))

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.tokens.nbytes + self.scales.nbytes + self.content.nbytes + self.pooled.nbytes


def pack_state(key: bytes, state: ItemState) -> bytes:
    """Render a state as bytes that say for which key they are, and whether they are whole."""
    tokens, width = state.tokens.shape
    arrays = (state.tokens, state.scales, state.content, state.pooled)
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    about = _HEADER.pack(0, tokens, width, len(state.pooled))[4:]
    return struct.pack("<I", zlib.crc32(body, zlib.crc32(key + about))) + about + body


def unpack_state(key: bytes, data: bytes) -> ItemState | None:
    """Read what :func:`pack_state` wrote.

    :return: the state, without copying; None where the bytes are damaged, or belong to another key.
    """
    if len(data) < _HEADER.size:
        return None
    digest, tokens, width, vectors = _HEADER.unpack_from(data)
    sizes = (tokens * width, 4 * tokens, tokens, 4 * vectors * width)
    if len(data) != _HEADER.size + sum(sizes):
        return None
    if zlib.crc32(memoryview(data)[_HEADER.size :], zlib.crc32(key + data[4 : _HEADER.size])) != digest:
        return None
    ends = np.cumsum((_HEADER.size, *sizes)).tolist()
    kinds = (np.uint8, np.float32, np.bool_, np.float32)
    parts: list[NDArray[Any]] = [
        np.frombuffer(data, kind, (end - start) // np.dtype(kind).itemsize, start)
        for kind, start, end in zip(kinds, ends, ends[1:], strict=False)
    ]
    return ItemState(parts[0].reshape(tokens, width), parts[1], parts[2], parts[3].reshape(vectors, width))
