"""File formats of a pool's results: encoding a shard, and joining shards to a file.

A shard has the format of the whole file, so that joining only copies.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import UsageError, load
from darl_opensearch.pool.pairs import PARQUET, Shard
from darl_opensearch.scores import Scores

ScoreFormat = Literal["jsonl", "jsonl.gz", "parquet"]
NPY = ".npy"


def choose_format(path: Path) -> ScoreFormat:
    """Choose the format of scores by file name.

    :raises UsageError: for an unknown extension.
    :raises MissingExtra: for Parquet without its extra.
    """
    if path.suffix == PARQUET:
        load("pyarrow", "parquet")
        return "parquet"
    if path.name.endswith(".jsonl"):
        return "jsonl"
    if path.name.endswith(".jsonl.gz"):
        return "jsonl.gz"
    raise UsageError("unknown format for scores", where=str(path), todo="use .jsonl, .jsonl.gz or .parquet")


def encode_scores(shard: Shard, scores: Scores, kind: ScoreFormat) -> bytes:
    """Encode the scores of a shard."""
    if kind == "parquet":
        return _parquet(shard, scores)
    rows = zip(shard.pairs, scores.grade.tolist(), _shortest(scores.data), strict=True)
    lines = []
    for place, (pair, grade, values) in enumerate(rows, shard.start):
        ids = {"query_id": pair.query_id, "query": pair.query, "item_id": pair.item_id, "slice": pair.slice}
        line: dict[str, Any] = {"pair": place} | {name: value for name, value in ids.items() if value is not None}
        line |= {
            "score": values[0],
            "grade": grade,
            "grade_probs": values[scores.columns.grade_probs],
            "ood_score": values[scores.columns.ood_score],
            "ood_distance": values[scores.columns.ood_distance],
        }
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    data = "".join(lines).encode()
    return gzip.compress(data, 6, mtime=0) if kind == "jsonl.gz" else data


def encode_features(rows: NDArray[np.float32]) -> bytes:
    """Encode the features of a shard as a ``.npy`` file.

    :param rows: ``[n, h]`` float32.
    """
    data = io.BytesIO()
    np.save(data, rows.astype("<f4", copy=False), allow_pickle=False)
    return data.getvalue()


def join_scores(shards: Sequence[Path], out: IO[bytes], kind: ScoreFormat) -> None:
    """Concatenate shards, in order, to one file."""
    if kind == "parquet":
        parquet = load("pyarrow.parquet", "parquet")
        with parquet.ParquetWriter(out, parquet.read_schema(shards[0])) as writer:
            for path in shards:
                writer.write_table(parquet.ParquetFile(path).read())
        return
    for path in shards:  # concatenated gzip members are one gzip file
        with path.open("rb") as file:
            shutil.copyfileobj(file, out, 1 << 20)


def join_features(shards: Sequence[Path], out: IO[bytes]) -> tuple[int, int]:
    """Concatenate shards, in order, to one ``.npy`` file; returns its shape."""
    parts = [np.load(path, mmap_mode="r", allow_pickle=False).shape for path in shards]
    shape = (sum(rows for rows, _ in parts), parts[0][1])
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    for path in shards:
        out.write(np.load(path, allow_pickle=False).tobytes())
    return shape


def _shortest(data: NDArray[np.float32]) -> list[list[float]]:
    """Round to the shortest decimals that read back as the same float32."""
    return [[float(text) for text in row] for row in data.astype(str)]


def _parquet(shard: Shard, scores: Scores) -> bytes:
    arrow, parquet = load("pyarrow", "parquet"), load("pyarrow.parquet", "parquet")
    probs = arrow.FixedSizeListArray.from_arrays(
        arrow.array(np.ascontiguousarray(scores.grade_probs).ravel()), scores.columns.k
    )
    columns = {
        "pair": arrow.array(range(shard.start, shard.start + len(shard.pairs)), arrow.int64()),
        **{
            name: arrow.array([getattr(pair, name) for pair in shard.pairs], arrow.string())
            for name in ("query_id", "query", "item_id", "slice")
        },
        "score": arrow.array(scores.score),
        "grade": arrow.array(scores.grade),
        "grade_probs": probs,
        "ood_score": arrow.array(scores.ood_score),
        "ood_distance": arrow.array(scores.ood_distance),
    }
    data = io.BytesIO()
    parquet.write_table(arrow.table(columns), data)
    return data.getvalue()
