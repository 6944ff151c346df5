"""Amazon's Shopping Queries data set (ESCI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from darl_opensearch.errors import InputError, short
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import setting
from darl_opensearch.text import ItemTemplate
from trainer.data.importers.base import IMPORTERS, ItemsWritten, Target, id_of, text_of
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.grading import is_unjudged

EXAMPLES = FileSpec(
    "examples", "one judged pair per row",
    ("query_id", "query", "product_id", "product_locale", "esci_label"),
    ("split", "small_version", "large_version"),
    ("shopping_queries_dataset_examples",),
)  # fmt: skip
PRODUCTS = FileSpec(
    "products", "one product per row",
    ("product_id", "product_locale", "product_title"),
    ("product_description", "product_bullet_point", "product_brand", "product_color"),
    ("shopping_queries_dataset_products",),
)  # fmt: skip
GRADES = {"i": 0, "c": 1, "s": 2, "e": 3, "irrelevant": 0, "complement": 1, "substitute": 2, "exact": 3}
# The gains of KDD Cup 2022's ranking task (the paper, section 4).
SCALE = GradeScale(("irrelevant", "complement", "substitute", "exact"), (0.0, 0.01, 0.1, 1.0))
TEMPLATE = ItemTemplate(
    ("=product_title", "product_brand", "product_color", "product_bullet_point", "product_description"),
    slice_field="product_locale",
)


@IMPORTERS.register("esci", cite="Reddy et al. 2022, arXiv:2206.06588; https://github.com/amazon-science/esci-data")
@dataclass(frozen=True, kw_only=True)
class Esci:
    """Amazon Shopping Queries: exact, substitute, complement, irrelevant."""

    sources: ClassVar[tuple[FileSpec, ...]] = (EXAMPLES, PRODUCTS)
    locale: Literal["us", "es", "jp", "all"] = setting("us", "market to import")
    split: Literal["train", "test", "all"] = setting("train", "split of the data set to import")
    version: Literal["small", "large", "all"] = setting(
        "small", "version of the data set; small: the harder queries (task 1)"
    )
    items: ItemsWritten = "judged"

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read the examples that pass the filters, and their products."""
        counts = {"filtered_examples": 0, "unjudged_rows": 0}
        for where, row in files.rows(EXAMPLES, project=True):
            if not self._wanted(row, where):
                counts["filtered_examples"] += 1
                continue
            if is_unjudged(row["esci_label"]):
                counts["unjudged_rows"] += 1
                continue
            label = str(row["esci_label"]).strip()
            if label.casefold() not in GRADES:
                raise InputError(
                    f"field 'esci_label' is {short(label)}", where=where, todo="it is one of E, S, C and I"
                )
            store.judge(
                where, id_of(row, "query_id", where), text_of(row, "query", where), self._item_id(row, where),
                GRADES[label.casefold()], slice=str(row["product_locale"]),
            )  # fmt: skip
        for where, row in files.rows(PRODUCTS, project=True):
            if self.locale in ("all", row["product_locale"]):
                fields = {name: row.get(name) for name in PRODUCTS.fields}
                store.item(where, self._item_id(row, where), fields)
        return Target(SCALE, TEMPLATE, self.items == "judged", counts)

    def _wanted(self, row: dict[str, Any], where: str) -> bool:
        wanted = self.locale in ("all", row["product_locale"])
        for name, value in (("split", self.split), (f"{self.version}_version", "1")):
            if value == "all" or name == "all_version":
                continue
            if name not in row:
                key = name.removeprefix(f"{self.version}_")
                raise InputError(f"there is no field {name!r}", where=where, todo=f"pass --set {key}=all")
            wanted = wanted and (_flag(row, name, where) if value == "1" else str(row[name])) == value
        return wanted

    def _item_id(self, row: dict[str, Any], where: str) -> str:
        # An ASIN identifies different products in different markets.
        product_id = id_of(row, "product_id", where)
        return f"{row['product_locale']}:{product_id}" if self.locale == "all" else product_id


def _flag(row: dict[str, Any], name: str, where: str) -> str:
    """Read a column of 0 and 1, which data frames also write as ``1.0`` or ``True``."""
    text = str(row[name]).strip().casefold()
    flag = {"0": "0", "0.0": "0", "false": "0", "1": "1", "1.0": "1", "true": "1"}.get(text)
    if flag is None:
        raise InputError(f"field {name!r} is {short(row[name])}, neither 0 nor 1", where=where, todo="correct the row")
    return flag
