"""Pools over the tiny bundle's items."""

from __future__ import annotations

import random

import pytest

from tests.helpers.bundles import ITEMS, QUERIES
from tests.helpers.files import write_rows


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """Folder with ``items.jsonl`` and 61 pairs in ``pairs.jsonl``, queries and items mixed."""
    folder = tmp_path_factory.mktemp("pool")
    draw = random.Random(7)
    rows = [
        {"query": draw.choice(QUERIES), "item_id": draw.choice(ITEMS)["id"], "query_id": f"q-{n}"} for n in range(61)
    ]
    write_rows(folder / "items.jsonl", ITEMS)
    write_rows(folder / "pairs.jsonl", rows)
    return folder
