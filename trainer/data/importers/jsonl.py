"""Judgments in any table format, with any field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from darl_opensearch.records.lines import LineKind
from darl_opensearch.records.values import parse_id
from darl_opensearch.settings import setting
from trainer.data.importers.base import IMPORTERS, Gains, ItemsWritten, Labels, Target, TextFields, id_of
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.grading import GradeMapping, is_unjudged
from trainer.data.importers.template import choose_template

JUDGMENTS = FileSpec(
    "judgments", "one judged pair per row, with the item's fields if there is no items file",
    ("query", "item_id", "grade"), ("query_id", "slice"), ("judgments",), may_lack=("grade",),
)  # fmt: skip
ITEMS = FileSpec("items", "one item per row", ("id",), (), ("items", "products"), required=False)


@IMPORTERS.register("jsonl", cite="ours")
@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """Your own judgments and items: JSONL, CSV, TSV or Parquet, with your field names."""

    sources: ClassVar[tuple[FileSpec, ...]] = (JUDGMENTS, ITEMS)
    items: ItemsWritten = "all"
    labels: Labels = ""
    gains: Gains = ""
    cuts: str = setting("", "cut points between grades, for values that are not grades: 0.5,1.5")
    template: TextFields = ""

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read the judgments, and the items from their own file or from the judgments."""
        grading = GradeMapping.of(self.labels, self.gains, self.cuts)
        inline = ITEMS.name not in files.paths
        judgment_fields = {*JUDGMENTS.fields} | {files.column_of(JUDGMENTS, name) for name in JUDGMENTS.fields}
        unjudged = 0
        for where, row in files.rows(JUDGMENTS):
            extra_fields = {name: value for name, value in row.items() if name not in judgment_fields}
            if is_unjudged(row.get("grade")):
                unjudged += 1
                item_id = parse_id(row, "item_id", where).strip()
            else:
                line = LineKind().parse(row, where)
                item_id = line.item_id.strip()
                store.judge(
                    where, line.query_id.strip(), line.query, item_id, grading.grade(row["grade"], "grade", where),
                    slice=line.slice, extra=None if inline else extra_fields,
                )  # fmt: skip
            if inline and item_id:
                store.item(where, item_id, extra_fields)
        if not inline:
            import_items(ITEMS, files, store)
        return Target(
            grading.scale(store.highest_grade()), choose_template(store, self.template), self.items == "judged",
            {"unjudged_rows": unjudged}, grading.notes(store),
        )  # fmt: skip


def import_items(source: FileSpec, files: ImportFiles, store: Gathering) -> None:
    """Read a file of items with all their fields; ``id`` is required."""
    for where, row in files.rows(source):
        store.item(where, id_of(row, "id", where), row)
