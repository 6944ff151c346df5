"""Bundles that score items in chunks, and items that are long enough."""

from __future__ import annotations

import json
from pathlib import Path

from darl_opensearch.bundle import CARD, Bundle
from tests.helpers.bundles import ITEMS, copy_bundle, correct_digests

CHUNKS = 3
_FILLER = " ".join(str(item["cover"]) for item in ITEMS if item["kind"] == "home")
LONG_ITEMS = [
    {"id": "l-1", "name": "Roof", "kind": "home", "cover": " ".join([_FILLER] * 4) + " stolen bicycle" * 2},
    {"id": "l-2", "name": "Stolen bicycle", "kind": "bicycle", "cover": " ".join(["stolen bicycle"] + [_FILLER] * 4)},
    {"id": "l-3", "name": "Ski week", "kind": "travel", "cover": "Rescue on the piste"},
    {"id": "l-4", "name": "Luggage", "kind": "travel", "cover": " ".join([_FILLER] * 9) + " stolen bicycle"},
]


def in_chunks(bundle: Bundle, target: Path, *, chunks: int = CHUNKS) -> Bundle:
    """The same bundle, which scores items in chunks; its calibration stays that of first chunks."""
    folder = copy_bundle(bundle, target)
    template = json.loads((folder / CARD).read_text(encoding="utf-8"))["template"]
    return Bundle.open(correct_digests(folder, template=template | {"chunks": chunks, "title_fields": 1}))
