"""Reading Parquet files batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, load
from darl_opensearch.io.progress import count_up
from darl_opensearch.io.reading import reading

BATCH_ROWS = 256  # rows converted to objects at once; a row may have a thousand items


def read_parquet(path: Path, columns: Collection[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file row by row.

    :param columns: columns to read if present; empty: all.
    :yields: ``file, row n``, for messages, and the row.
    :raises InputError: if the file cannot be read.
    :raises MissingExtra: if pyarrow is not installed.
    """
    arrow, parquet = load("pyarrow", "parquet"), load("pyarrow.parquet", "parquet")
    try:
        with reading(path), parquet.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in columns] if columns else None
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=wanted, use_threads=False)
            rows = (row for batch in batches for row in batch.to_pylist())
            counted = count_up(rows, f"reading {path.name}", file.metadata.num_rows)
            for number, row in enumerate(counted, 1):
                yield f"{path}, row {number}", row
    except (arrow.ArrowException, ValueError, OverflowError) as err:  # the last two: a date beyond Python's range
        raise InputError(f"not Parquet ({err})", where=str(path), todo="download or write the file again") from err
