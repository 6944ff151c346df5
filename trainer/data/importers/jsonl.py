"""A team's own judgments, in whatever table and under whatever names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from darl_opensearch.records.lines import LineKind
from darl_opensearch.settings import setting
from trainer.data.importers.base import (
    IMPORTERS,
    Gains,
    Given,
    Grading,
    ItemsWritten,
    Labels,
    Source,
    Target,
    TextFields,
    id_of,
    text_template,
)
from trainer.data.importers.gathering import Gathering

JUDGMENTS = Source(
    "judgments", "a judged pair a row; without a second file with the item's fields",
    ("query", "item_id", "grade"), ("query_id", "slice"), ("judgments",),
)  # fmt: skip
ITEMS = Source("items", "an item a row", ("id",), (), ("items", "products"), required=False)


@IMPORTERS.register("jsonl", cite="ours")
@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """Judgments and items of your own: JSONL, CSV, TSV or Parquet, with names of your own."""

    sources: ClassVar[tuple[Source, ...]] = (JUDGMENTS, ITEMS)
    items: ItemsWritten = "all"
    labels: Labels = ""
    gains: Gains = ""
    cuts: str = setting("", "cut points between grades, for values that are no grades: 0.5,1.5")
    template: TextFields = ""

    def read(self, given: Given, store: Gathering) -> Target:
        """Read the judgments, and the items beside or inside them.

        :param store: where items and judgments go.
        """
        grading = Grading.of(self.labels, self.gains, self.cuts)
        inline = ITEMS.name not in given.paths
        own = {*JUDGMENTS.fields} | {given.called(JUDGMENTS, name) for name in JUDGMENTS.fields}
        for where, row in given.rows(JUDGMENTS):
            line = LineKind().parse(row, where)
            item_id = line.item_id.strip()
            others = {name: value for name, value in row.items() if name not in own}
            store.judge(
                where, line.query_id.strip(), line.query, item_id, grading.grade(row["grade"], "grade", where),
                slice=line.slice, extra=None if inline else others,
            )  # fmt: skip
            if inline:
                store.item(where, item_id, others)
        if not inline:
            read_items(ITEMS, given, store)
        scale = grading.scale(store.highest_grade())
        return Target(scale, text_template(store, self.template), self.items == "judged")


def read_items(source: Source, given: Given, store: Gathering) -> None:
    """Read a file of items whose every field is kept.

    :param source: which file; it has an ``id``.
    """
    for where, row in given.rows(source):
        store.item(where, id_of(row, "id", where), row)
