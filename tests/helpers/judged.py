"""Judgments over the tiny bundle's items, and parts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darl_opensearch.records.judgments import JudgedQuery
from tests.helpers.bundles import ITEMS
from tests.helpers.files import write_rows
from trainer.evaluate.parts import JudgedPart

# query id, query, slice, and a grade for each of the six items
GRADED = [
    ("q1", "stolen bicycle", "bicycle", (2, 1, 1, 0, 0, 0)),
    ("q2", "lost luggage on a flight", "travel", (0, 0, 1, 2, 0, 0)),
    ("q3", "storm damage to my roof", "home", (0, 0, 0, 0, 2, 1)),
    ("q4", "accident cover for riders", "bicycle", (1, 2, 0, 0, 0, 0)),
]
STRANGE = [
    ("s1", "kitchen fire", "", (0, 0, 0, 0, 1, 2)),
    ("s2", "ski rescue", "", (0, 0, 2, 1, 0, 0)),
    ("s3", "quantum tunnelling", "", (0, 0, 0, 0, 0, 0)),
]


def write_judgments(path: Path, graded) -> Path:
    rows = [
        {"query_id": query_id, "query": query, "item_id": item["id"], "grade": grade}
        | ({"slice": slice_name} if slice_name else {})
        for query_id, query, slice_name, grades in graded
        for item, grade in zip(ITEMS, grades, strict=True)
    ]
    return write_rows(path, rows)


def part_of(grades, *, sizes=None, slices=None, name="id") -> JudgedPart:
    """A part whose queries have the given numbers of items, by default one query with all of them."""
    sizes = [len(grades)] if sizes is None else sizes
    ends = np.cumsum(sizes)
    ids = [f"d{place}" for place in range(len(grades))]
    queries = tuple(
        JudgedQuery(f"q{place}", "", tuple(ids[end - size : end]), tuple(grades[end - size : end]), "")
        for place, (size, end) in enumerate(zip(sizes, ends, strict=True))
    )
    return JudgedPart(
        name, Path("by-hand"), "0" * 64, queries, np.repeat(np.arange(len(sizes)), sizes), tuple(ids),
        np.array(grades, dtype=np.int64), tuple(slices or [""] * len(grades)),
    )  # fmt: skip
