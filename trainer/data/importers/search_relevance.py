"""Judgment lists of OpenSearch's Search Relevance Workbench."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.io.digest import name_text
from darl_opensearch.settings import nearest, setting
from trainer.data.importers.base import (
    IMPORTERS,
    FileSpec,
    Gains,
    GradeMapping,
    ImportFiles,
    ItemsWritten,
    Labels,
    Target,
    TextFields,
    choose_template,
    id_of,
    missing_field,
    text_of,
    unwrap,
)
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.jsonl import import_items
from trainer.data.tables import data_suffix, read_document, read_table

LISTS = FileSpec(
    "judgments", "the response of GET _plugins/_search_relevance/judgments, a PUT body, or a JSONL export",
    (), (), ("judgments",),
)  # fmt: skip
ITEMS = FileSpec("items", "one item per row, with the ids used in the ratings", ("id",), (), ("items", "products"))


@IMPORTERS.register(
    "search-relevance", cite="https://docs.opensearch.org/latest/search-plugins/search-relevance/judgments/"
)
@dataclass(frozen=True, kw_only=True)
class SearchRelevance:
    """Judgment lists of the Search Relevance Workbench: imported, by an LLM, or from clicks."""

    sources: ClassVar[tuple[FileSpec, ...]] = (LISTS, ITEMS)
    list: str = setting("", "name or id of one judgment list to import; empty: all")
    cuts: str = setting("", "cut points between grades, for ratings that are not grades: 0.5,1.5")
    labels: Labels = ""
    gains: Gains = ""
    items: ItemsWritten = "all"
    template: TextFields = ""

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read ratings and items."""
        lists = self.rate(files, store)
        import_items(ITEMS, files, store)
        scale = GradeMapping.of(self.labels, self.gains, self.cuts).scale(store.highest_grade())
        return Target(scale, choose_template(store, self.template), self.items == "judged", {"judgment_lists": lists})

    def rate(self, files: ImportFiles, store: Gathering) -> int:
        """Read only the ratings.

        :raises UsageError: if the requested list does not exist.
        :raises InputError: for a file without lists, or a rating that is not a grade.
        """
        grading = GradeMapping.of(self.labels, self.gains, self.cuts)
        names: set[str] = set()
        lists = 0
        for where, document in _documents(files.paths[LISTS.name]):
            own_names = {str(document.get(key)) for key in ("name", "id") if document.get(key)}
            names |= own_names
            if self.list and self.list not in own_names:
                continue
            lists += 1
            for at, query, rating in _ratings(where, document):
                store.judge(
                    at, name_text("q", query), query, id_of(rating, "docId", at),
                    grading.grade(rating["rating"], "rating", at), extra={"rating": rating["rating"]},
                )  # fmt: skip
        if not lists:
            if self.list:
                raise UsageError(f"there is no judgment list {self.list!r}", todo=nearest(self.list, names))
            raise InputError(
                "the file has no judgment list",
                where=str(files.paths[LISTS.name]),
                todo="export one with status COMPLETED",
            )
        return lists


def _documents(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield judgment lists, unwrapped from API responses and exports."""
    rows = read_table(path) if data_suffix(path) in (".jsonl", ".ndjson") else iter([(str(path), read_document(path))])
    for where, row in rows:
        hits = row.get("hits")
        inner = hits.get("hits") if isinstance(hits, dict) else None
        for number, hit in enumerate(inner if isinstance(inner, list) else [row]):
            place = f"{where}, hits.hits[{number}]" if isinstance(inner, list) else where
            if not isinstance(hit, dict):
                raise InputError("not an object", where=place, todo="export the judgment lists again")
            document = unwrap(hit)
            if "judgmentRatings" not in document:
                raise missing_field("judgmentRatings", document, place, mapped=False)
            yield place, {"id": hit.get("_id"), **document}


def _ratings(where: str, document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for n, entry in enumerate(_objects(document["judgmentRatings"], "judgmentRatings", where)):
        place = f"{where}, judgmentRatings[{n}]"
        query = text_of(entry, "query", place)
        if "ratings" not in entry:
            raise missing_field("ratings", entry, place, mapped=False)
        for m, rating in enumerate(_objects(entry["ratings"], "ratings", place)):
            at = f"{place}.ratings[{m}]"
            for name in ("docId", "rating"):
                if name not in rating:
                    raise missing_field(name, rating, at, mapped=False)
            yield at, query, rating


def _objects(value: object, name: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        shown = json.dumps(value)[:60]
        raise InputError(f"field {name!r} is {shown}, not a list of objects", where=where, todo="export it again")
    return value
