"""The sample's test part: queries, items, grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.bundle import Bundle
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.lines import LineKind


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
    """Read the sample's test part."""
    texts, slices, new = {}, {}, set()
    template = bundle.card.template
    for name in ("items", "new_items"):
        for where, row in read_jsonl(folder / f"{name}.jsonl"):
            item_id = template.item_id(row, where=where)
            texts[item_id], slices[item_id] = bundle.renderer(row, where=where), template.slice_of(row)
            if name == "new_items":
                new.add(item_id)
    queries = read_queries(folder / "test_queries.jsonl")
    judged = LineKind(items=texts, k=bundle.card.scale.k).read(folder / "test_judgments.jsonl")
    grades = {(line.query_id, line.item_id): line.grade for line in judged}
    return Sample(folder, texts, slices, frozenset(new), queries, grades)


def read_queries(path: Path) -> list[TestQuery]:
    """Read the sample's queries, each with whether its kind was trained on."""
    lines = LineKind(what="query", item="ignored").read(path)
    return [TestQuery(line.query_id, line.query, line.slice, line.row["seen"]) for line in lines]
