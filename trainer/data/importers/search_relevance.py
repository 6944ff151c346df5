"""Judgment lists of OpenSearch's Search Relevance Workbench."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from darl_opensearch.errors import InputError, UsageError, short
from darl_opensearch.io.digest import name_text
from darl_opensearch.settings import Field, nearest, setting
from trainer.data.importers.base import IMPORTERS, Gains, ItemsWritten, Labels, Target, TextFields, id_of, text_of
from trainer.data.importers.files import FileSpec, ImportFiles, missing_field, unwrap
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.grading import GradeMapping, is_unjudged
from trainer.data.importers.jsonl import import_items
from trainer.data.importers.template import choose_template
from trainer.data.importers.unsupported import refuse_unsupported
from trainer.data.tables import read_json

LISTS = FileSpec(
    "judgments", "the response of GET _plugins/_search_relevance/judgments, a PUT body, or a JSONL export",
    (), (), ("judgments",),
)  # fmt: skip
ITEMS = FileSpec("items", "one item per row, with the ids used in the ratings", ("id",), (), ("items", "products"))
Ratings = list[tuple[str, Mapping[str, Any]]]  # with their places
Answers = Annotated[
    Literal["keep", "cut"],
    Field("text after a # inside a word of a query: keep it, or cut it as a reference answer of earlier versions"),
]
# What follows the # of custom fields as lines. ``C# code`` is no such line, and ``#1 song`` has no query before it.
_LINES = re.compile(r"\s*\n[ \t]*[A-Za-z_][\w.-]*[ \t]*:.*", re.DOTALL)
_ANSWER = re.compile(r"\S#\S")


@IMPORTERS.register(
    "search-relevance", cite="https://docs.opensearch.org/latest/search-plugins/search-relevance/judgments/"
)
@dataclass(frozen=True, kw_only=True)
class SearchRelevance:
    """Judgment lists of the Search Relevance Workbench: imported, by an LLM, or from clicks."""

    sources: ClassVar[tuple[FileSpec, ...]] = (LISTS, ITEMS)
    list: str = setting("", "name or id of one judgment list to import; empty: all")
    cuts: str = setting("", "cut points between grades, for ratings that are not grades: 0.5,1.5")
    answers: Answers = "keep"
    labels: Labels = ""
    gains: Gains = ""
    items: ItemsWritten = "all"
    template: TextFields = ""

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read ratings and items."""
        counts, notes = self.rate(files, store)
        import_items(ITEMS, files, store)
        grading = GradeMapping.of(self.labels, self.gains, self.cuts)
        return Target(
            grading.scale(store.highest_grade()), choose_template(store, self.template), self.items == "judged",
            counts, (*notes, *grading.notes(store)),
        )  # fmt: skip

    def rate(self, files: ImportFiles, store: Gathering) -> tuple[dict[str, int], tuple[str, ...]]:
        """Read only the ratings.

        :return: counts, and notes for the user.
        :raises UsageError: if the requested list does not exist.
        :raises InputError: for a file without lists, or a rating that is not a grade.
        """
        grading = GradeMapping.of(self.labels, self.gains, self.cuts)
        names: set[str] = set()
        counts = {"judgment_lists": 0, "other_judgment_lists": 0, "unjudged_ratings": 0, "queries_without_ratings": 0,
                  "queries_with_custom_fields": 0, "queries_with_a_hash": 0}  # fmt: skip
        hashed = ""
        for where, document in _documents(files):
            own_names = {str(document.get(key)) for key in ("name", "id") if document.get(key)}
            names |= own_names
            if self.list and self.list not in own_names:
                counts["other_judgment_lists"] += 1
                continue
            counts["judgment_lists"] += 1
            for given, ratings in _entries(where, document):
                query, custom = cut_custom_fields(given)
                counts["queries_with_custom_fields"] += custom
                if not custom and (answer := _ANSWER.search(query)):
                    counts["queries_with_a_hash"] += 1
                    hashed = hashed or query
                    query = query[: answer.start() + 1] if self.answers == "cut" else query
                counts["queries_without_ratings"] += not ratings
                for at, rating in ratings:
                    if is_unjudged(rating["rating"]):
                        counts["unjudged_ratings"] += 1
                        continue
                    store.judge(
                        at, name_text("q", query), query, id_of(rating, "docId", at),
                        grading.grade(rating["rating"], "rating", at), extra={"rating": rating["rating"]},
                    )  # fmt: skip
        notes: tuple[str, ...] = ()
        if hashed and self.answers == "keep":
            notes = (
                f"Queries with a # inside a word: {counts['queries_with_a_hash']:,}, such as {short(hashed)}. "
                "Where a reference answer follows it, as in earlier versions of the workbench, set answers=cut.",
            )
        if not counts["judgment_lists"]:
            if self.list:
                raise UsageError(f"there is no judgment list {self.list!r}", todo=nearest(self.list, names))
            raise InputError(
                "the file has no judgment list",
                where=str(files.paths[LISTS.name]),
                todo="export one with status COMPLETED",
            )
        return counts, notes


def cut_custom_fields(query: str) -> tuple[str, bool]:
    """Cut the custom fields of a query set from a query, such as ``red shoes#{"referenceAnswer": ""}``.

    The workbench appends them as a JSON object, or as lines ``name: value`` after a line that ends in ``#``.

    :return: the query, and whether it had custom fields.
    """
    for match in re.finditer("#", query):
        text, rest = query[: match.start()].strip(), query[match.end() :]
        if not text:
            continue
        if _LINES.fullmatch(rest):
            return text, True
        if rest.strip().startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(json.loads(rest), dict):
                    return text, True
    return query, False


def _documents(files: ImportFiles) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield judgment lists, unwrapped from API responses and exports."""
    path = files.paths[LISTS.name]
    rows = read_json(path, files.encoding_of(LISTS), lambda hits, total: files.partial.update({path: (hits, total)}))
    for where, hit in rows:
        document = unwrap(hit)
        if "judgmentRatings" not in document:
            refuse_unsupported(document, where)
            raise missing_field("judgmentRatings", document, where, mapped=False)
        yield where, {"id": hit.get("_id"), **document}


def _entries(where: str, document: Mapping[str, Any]) -> Iterator[tuple[str, Ratings]]:
    """Yield each query with its ratings and their places."""
    for place, entry in _queries(document["judgmentRatings"], where):
        query = text_of(entry, "query", place)
        if "ratings" not in entry:
            raise missing_field("ratings", entry, place, mapped=False)
        ratings: Ratings = []
        for m, rating in enumerate(_objects(entry["ratings"] or [], "ratings", place)):
            at = f"{place}.ratings[{m}]"
            for name in ("docId", "rating"):
                if name not in rating:
                    raise missing_field(name, rating, at, mapped=False)
            ratings.append((at, rating))
        yield query, ratings


def _queries(value: object, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the entries of ``judgmentRatings`` with their places.

    A list of ``{query, ratings}``; in files of the first versions an object of ratings by query, and the ratings a list
    or an object of ``rating`` by ``docId``.
    """
    if not isinstance(value, dict):
        for n, entry in enumerate(_objects(value, "judgmentRatings", where)):
            yield f"{where}, judgmentRatings[{n}]", entry
        return
    for query, ratings in value.items():
        if isinstance(ratings, dict):
            ratings = [{"docId": item, "rating": rating} for item, rating in ratings.items()]
        yield f"{where}, judgmentRatings[{short(query)}]", {"query": query, "ratings": ratings}


def _objects(value: object, name: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        shown = json.dumps(value)[:60]
        raise InputError(f"field {name!r} is {shown}, not a list of objects", where=where, todo="export it again")
    return value
