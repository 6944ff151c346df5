"""Wayfair's annotated searches (WANDS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from darl_opensearch.errors import InputError, short
from darl_opensearch.records.values import like_known
from darl_opensearch.scores import GradeScale
from darl_opensearch.text import ItemTemplate
from trainer.data.importers.base import IMPORTERS, ItemsWritten, Target, id_of, text_of
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.grading import is_unjudged

QUERIES = FileSpec("query", "one query per row", ("query_id", "query"), ("query_class",), ("query",))
PRODUCTS = FileSpec("product", "one product per row", ("product_id", "product_name"), (), ("product",))
LABELS = FileSpec("label", "one judged pair per row", ("query_id", "product_id", "label"), (), ("label",))
SCALE = GradeScale(("Irrelevant", "Partial", "Exact"), (0.0, 1.0, 2.0))
TEMPLATE = ItemTemplate(
    ("=product_name", "product_class", "category hierarchy", "product_description", "product_features")
)


@IMPORTERS.register("wands", cite="Chen et al. 2022 (ECIR); https://github.com/wayfair/WANDS")
@dataclass(frozen=True, kw_only=True)
class Wands:
    """Wayfair's WANDS: exact, partial, irrelevant."""

    sources: ClassVar[tuple[FileSpec, ...]] = (QUERIES, PRODUCTS, LABELS)
    items: ItemsWritten = "all"

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read labels, queries and products; the files are tab-separated, whatever their suffix."""
        queries: dict[str, tuple[str, str]] = {}  # 480 of them
        for where, row in files.rows(QUERIES, delimiter="\t"):
            query_id = id_of(row, "query_id", where)
            queries[query_id] = text_of(row, "query", where), str(row.get("query_class") or "")
        for where, row in files.rows(PRODUCTS, delimiter="\t"):
            store.item(where, id_of(row, "product_id", where), row)
        labels = [name.casefold() for name in SCALE.names]
        unjudged = 0
        for where, row in files.rows(LABELS, delimiter="\t"):
            query_id, label = id_of(row, "query_id", where), str(row["label"] or "").strip()
            if is_unjudged(label):
                unjudged += 1
                continue
            if query_id not in queries:
                todo = like_known(query_id, queries) or "use three files from the same release"
                raise InputError(f"there is no query {short(query_id)}", where=where, todo=todo)
            if label.casefold() not in labels:
                raise InputError(
                    f"field 'label' is {short(label)}", where=where, todo=f"it is one of {', '.join(SCALE.names)}"
                )
            query, slice_ = queries[query_id]
            grade = labels.index(label.casefold())
            store.judge(where, query_id, query, id_of(row, "product_id", where), grade, slice=slice_)
        return Target(SCALE, TEMPLATE, self.items == "judged", {"unjudged_rows": unjudged})
