"""The sample's test part: queries, items, grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.bundle import Bundle
from darl_opensearch.io.jsonl import read_jsonl


@dataclass(frozen=True)
class TestQuery:
    """A held-out query.

    :param seen: whether the kind was in the training part.
    """

    query_id: str
    query: str
    slice: str
    seen: bool


@dataclass(frozen=True)
class Sample:
    """Everything the demo searches and measures with.

    :param texts: rendered text by item id, all kinds.
    :param slices: kind by item id.
    :param new: ids of the items of kinds that were not trained on.
    :param grades: grade by query id and item id.
    """

    folder: Path
    texts: Mapping[str, str]
    slices: Mapping[str, str]
    new: frozenset[str]
    queries: Sequence[TestQuery]
    grades: Mapping[tuple[str, str], int]

    @property
    def item_files(self) -> tuple[Path, Path]:
        """Items of the trained kinds, and of the kinds launched later."""
        return self.folder / "items.jsonl", self.folder / "new_items.jsonl"


def read_sample(folder: Path, bundle: Bundle) -> Sample:
    """Read the sample's test part.

    :param bundle: whose template renders the items.
    """
    texts, slices, new = {}, {}, set()
    template = bundle.card.template
    for name in ("items", "new_items"):
        for where, row in read_jsonl(folder / f"{name}.jsonl"):
            item_id = template.item_id(row, where=where)
            texts[item_id], slices[item_id] = bundle.renderer(row, where=where), template.slice_of(row)
            if name == "new_items":
                new.add(item_id)
    queries = [
        TestQuery(row["query_id"], row["query"], row["slice"], row["seen"])
        for _, row in read_jsonl(folder / "test_queries.jsonl")
    ]
    judged = read_jsonl(folder / "test_judgments.jsonl")
    grades = {(row["query_id"], row["item_id"]): row["grade"] for _, row in judged}
    return Sample(folder, texts, slices, frozenset(new), queries, grades)
