"""Candidates with their items and features, embedded once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.dasa.config import SelectConfig
from trainer.dasa.features import Request
from trainer.dasa.lists import Lister
from trainer.dasa.mix import Listed, lead_items
from trainer.dasa.registry import Floats
from trainer.dasa.work import GatheredLog, Queries

CHUNK = 64  # queries listed, scored and embedded at a time
LEAST_ITEMS = 2  # a single item has no order
Features = Callable[[Sequence[Request]], Floats]  # queries with item texts to one row per query
Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Embedded:
    """Queries with at least two items.

    :param places: ``[n]``, their positions in the work file.
    :param rows: ``[n]``, their rows in the log's :class:`~trainer.dasa.work.Queries`.
    :param features: ``[n, h]`` float32 of unit length, memory-mapped.
    :param cost: ``[n]``, items per query.
    :param flagged: ``[n]``, whether the query is out of distribution.
    :param few: number of queries left out because they have too few items.
    """

    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    features: Floats
    cost: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    few: int

    def keep(self, which: NDArray[np.bool_], path: Path) -> Embedded:
        """Keep the queries in a mask; their features, which may exceed memory, are copied to a file."""
        if which.all():
            return self
        places = np.flatnonzero(which)
        with path.open("wb") as file:
            for start in range(0, len(places), 4096):
                file.write(np.ascontiguousarray(self.features[places[start : start + 4096]]).tobytes())
        features = map_features(path, len(places), self.features.shape[1])
        return Embedded(
            self.places[places], self.rows[places], features, self.cost[places], self.flagged[places], self.few
        )


def map_features(path: Path, count: int, width: int) -> Floats:
    """Memory-map a file of float32 rows."""
    if not count:
        return np.empty((0, width), dtype=np.float32)
    return np.memmap(path, dtype=np.float32, mode="r", shape=(count, width))


def embed_known(
    work: GatheredLog, path: Path, trained: Sequence[Request], features: Features, report: Report
) -> Floats:
    """Embed the training queries, or load their embeddings: ``[m, h]`` float32 of unit length."""
    if work.mark("known") is not None:
        stored: Floats = np.load(path)
        return stored
    parts = []
    for start in range(0, len(trained), CHUNK):
        parts.append(features(trained[start : start + CHUNK]))
        report("embedding known queries", min(start + CHUNK, len(trained)), len(trained))
    embedded = np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
    np.save(path, embedded)
    work.set_mark("known", str(len(embedded)))
    work.commit()
    return embedded


def embed_candidates(
    work: GatheredLog, folder: Path, lister: Lister, features: Features, queries: Queries, rows: Sequence[int],
    config: SelectConfig, report: Report,
) -> Embedded:  # fmt: skip
    """List, score and embed queries, resuming where the last attempt stopped.

    :param rows: rows of ``queries``, always the same for one work file.
    """
    path = folder / "features.f32"
    done, written, width = map(int, (work.mark("embedded") or "0 0 0").split())
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(written * width * 4)  # drops rows that were written but not committed
        file.seek(0, 2)
        while done < len(rows):
            part = rows[done : done + CHUNK]
            lists = zip(part, lister([int(queries.ids[row]) for row in part]), strict=True)
            mixes = [
                (int(queries.ids[row]), _is_flagged(queries, row, listed, config),
                 lead_items(listed, config.items_per_query))
                for row, listed in lists if len(listed) >= LEAST_ITEMS
            ]  # fmt: skip
            if mixes:
                vectors = features([(work.text(n), [item.text for item in listed]) for n, _, listed in mixes])
                width = vectors.shape[1]
                file.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
                file.flush()
                work.put_candidates(written, mixes)
                written += len(mixes)
            done += len(part)
            work.set_mark("embedded", f"{done} {written} {width}")
            work.commit()
            report("embedding candidates", done, len(rows))
    return _read(work, path, queries, rows, written, width)


def _is_flagged(queries: Queries, row: int, listed: Sequence[Listed], config: SelectConfig) -> bool:
    share = queries.ood_share[row]  # exact where this model ranked the query: it counts unlogged items too
    if np.isnan(share):
        share = np.mean([item.is_ood for item in listed])
    return bool(share >= config.flagged_share)


def _read(work: GatheredLog, path: Path, queries: Queries, rows: Sequence[int], count: int, width: int) -> Embedded:
    places = np.arange(count, dtype=np.int64)
    numbers, cost = np.zeros((2, count), dtype=np.int64)
    flagged = np.zeros(count, dtype=np.bool_)
    for place, (number, flag, listed) in enumerate(work.candidates(count)):
        numbers[place], cost[place], flagged[place] = number, len(listed), flag
    found_rows = queries.rows(numbers)
    return Embedded(places, found_rows, map_features(path, count, width), cost, flagged, few=len(rows) - count)
