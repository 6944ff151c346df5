"""Triples of a query, a relevant text and an irrelevant one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from darl_opensearch.errors import InputError, UsageError, short
from darl_opensearch.io.digest import name_text
from darl_opensearch.records.values import like_known
from darl_opensearch.scores import GradeScale
from darl_opensearch.text import ItemTemplate
from trainer.data.importers.base import IMPORTERS, ItemsWritten, Target, id_of, text_of
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.trec import TextIds, look_up_text, read_texts

TRIPLES = FileSpec(
    "triples", "JSONL, or TSV without a header: query, positive, negative; ids if the other two files are given",
    ("query", "positive", "negative"), (), ("triples",),
)  # fmt: skip
QUERIES = FileSpec(
    "queries", "JSONL, or TSV without a header: id, text", ("id", "text"), (), ("queries",), required=False
)
COLLECTION = FileSpec(
    "collection", "JSONL, or TSV without a header: id, text", ("id", "text"), (), ("collection",), required=False
)
SCALE = GradeScale(("irrelevant", "relevant"), (0.0, 1.0))
FIELD = "text"


@IMPORTERS.register("triples", cite="MS MARCO: Bajaj et al. 2016, arXiv:1611.09268")
@dataclass(frozen=True, kw_only=True)
class Triples:
    """MS MARCO's triples (query, positive, negative), as two grades.

    A text that is positive for a query in one line and negative in another counts as positive.
    """

    sources: ClassVar[tuple[FileSpec, ...]] = (TRIPLES, QUERIES, COLLECTION)
    items: ItemsWritten = "judged"

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read the triples, and the texts of their ids if they have ids.

        :raises UsageError: for queries without a collection.
        """
        by_id = QUERIES.name in files.paths
        if by_id and COLLECTION.name not in files.paths:
            raise UsageError("there are queries but no collection", todo="give triples, queries and collection")
        if by_id:
            read_texts(QUERIES, files, store, "topic")
        for where, row in files.rows(TRIPLES, plain=TRIPLES.needs):
            query_id, query = self._query(row, where, store, by_id=by_id)
            for name, grade in (("positive", 1), ("negative", 0)):
                if by_id:
                    item_id = id_of(row, name, where)
                else:
                    text = text_of(row, name, where)
                    item_id = name_text("t", text)
                    store.item(where, item_id, {FIELD: text})
                store.judge(where, query_id, query, item_id, grade, repeats="highest")
        if by_id:
            for where, row in files.rows(COLLECTION, plain=COLLECTION.needs):
                store.item(where, id_of(row, "id", where), row)
        return Target(SCALE, ItemTemplate((f"={FIELD}",)), self.items == "judged")

    def _query(self, row: dict[str, object], where: str, store: Gathering, *, by_id: bool) -> tuple[str, str]:
        if not by_id:
            text = text_of(row, "query", where)
            return name_text("q", text), text
        query_id = id_of(row, "query", where)
        if (query := look_up_text(store, "topic", query_id)) is None:
            todo = like_known(query_id, TextIds(store, "topic")) or "add it to the queries, or give texts only"
            raise InputError(f"there is no query {short(query_id)}", where=where, todo=todo)
        return query_id, query
