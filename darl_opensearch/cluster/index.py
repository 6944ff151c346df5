"""Loading items into an index, rendered by a bundle's template."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.calls import Call, Cluster, join_path
from darl_opensearch.cluster.guards import guard_item
from darl_opensearch.cluster.without_text import count_documents_without_text
from darl_opensearch.cluster_errors import explain_block, explain_refusal
from darl_opensearch.config_files import OMIT, render_body
from darl_opensearch.connect import calling
from darl_opensearch.errors import ClusterError, InputError, UsageError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.items import identify_items
from darl_opensearch.text import ID_FIELD, SLICE_FIELD, TEXT_FIELD, ItemTemplate, NoTextError

MAX_ID_BYTES = 512  # OpenSearch's limit for _id
KEPT_FAILURES = 20
BULK_BYTES = 8 << 20
BULK_ITEMS = 500
WRITE_BLOCKS = ("read_only_allow_delete", "read_only", "write")  # settings index.blocks.*

_INDEX = re.compile(r"[a-z0-9][a-z0-9._-]{0,200}")  # never a wildcard, a list, or a system name


@dataclass(frozen=True)
class FailedItem:
    """An item that the index rejected."""

    where: str
    item_id: str
    reason: str


@dataclass(frozen=True)
class LoadReport:
    """Outcome of loading items.

    :param items: in the file, without those that have no text.
    :param failed: the first rejected items.
    :param without_text: ids of items without text, which are not loaded: a hit without text is not reranked, nor are
        the other hits of its search.
    :param index_without_text: documents without the bundle's text field that something else put there, by index; None
        if they were not counted, as in a dry run or where the user may not search the index.
    :param beyond_chunks: items with text beyond the last chunk, of a bundle that scores in chunks.
    """

    index: str
    created: bool
    items: int
    indexed: int
    failed: tuple[FailedItem, ...]
    without_text: tuple[str, ...] = ()
    index_without_text: Mapping[str, int] | None = None
    beyond_chunks: int = 0

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        failed = [dict(vars(item)) for item in self.failed]
        others = self.index_without_text
        return dict(vars(self)) | {
            "failed": failed, "without_text": list(self.without_text),
            "index_without_text": None if others is None else dict(others),
        }  # fmt: skip

    def check(self) -> None:
        """Raise an error if any item was rejected.

        :raises ClusterError: naming the first one.
        """
        if self.failed:
            first, others = self.failed[0], "the others are indexed" if self.indexed else "none is indexed"
            raise ClusterError(
                f"{self.items - self.indexed} of {self.items} items were rejected: {first.reason}",
                where=first.where,
                todo=f"correct the cause and run this again; {others}",
            )


def check_items(items: str | os.PathLike[str], template: ItemTemplate) -> tuple[dict[str, str], list[str]]:
    """Check a whole file of items before any is sent.

    :param items: JSONL, one item per line; ``.gz`` is decompressed.
    :return: position of each item in the file, by id, and the ids of those without text.
    :raises InputError: at the first line that could not be indexed, or if no item has text.
    """
    seen: dict[str, str] = {}
    blank: list[str] = []
    for where, item_id, item in identify_items(Path(items), read_jsonl(items), template, seen.get):
        if len(item_id.encode()) > MAX_ID_BYTES:
            raise InputError(f"the id has more than {MAX_ID_BYTES} bytes", where=where, todo="shorten it")
        if taken := [name for name in item if name.startswith("darl_") or name == "previous_score"]:
            raise InputError(
                f"the field name {taken[0]!r} is reserved",
                where=where,
                todo="rename the item's field",
            )
        seen[item_id] = where
        try:
            template.render(item, where=where)
        except NoTextError:
            blank.append(item_id)
    if len(blank) == len(seen):
        raise InputError("no item has any of the template's fields", where=str(items), todo="check the template")
    return seen, blank


def load_items(
    cluster: Cluster,
    bundle: Bundle | str | os.PathLike[str],
    items: str | os.PathLike[str],
    index: str,
    *,
    recreate: bool = False,
    shards: int = 1,
    on_item: Callable[[int, int], None] | None = None,
) -> LoadReport:
    """Render items and load them, after checking the whole file.

    Items keep their ids, so loading a file again, or after an interruption, gives the same index.

    :param bundle: the bundle, or its folder.
    :param items: JSONL, one item per line; ``.gz`` is decompressed.
    :param index: created if missing.
    :param on_item: called now and then with items done and items in all.
    :return: the outcome; see :meth:`LoadReport.check`.
    """
    if not _INDEX.fullmatch(index):
        raise UsageError(f"invalid index name {index!r}", todo="use a-z, 0-9, '.', '_', '-'")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    places, blank = check_items(items, opened.card.template)
    count = len(places) - len(blank)
    beyond: list[str] = []
    documents = _documents(opened, items, frozenset(blank), beyond)
    cluster.identify()
    created = _prepare(cluster, index, recreate=recreate, shards=shards, long_text=opened.card.template.chunks > 1)
    if cluster.dry_run:
        first = next(documents)[1]
        cluster.calls.append(Call("POST", "/_bulk", {"index": index, "items": count, "first": first}))
        return LoadReport(index, created, count, 0, (), tuple(blank))
    indexed, failed = _send(cluster, documents, index, places, count, on_item)
    cluster.send("POST", join_path(index, "_refresh"))
    others = None
    with contextlib.suppress(ClusterError):  # who loads an index need not be allowed to search it
        others = count_documents_without_text(cluster, index, opened.card.text_field)
    return LoadReport(index, created, count, indexed, tuple(failed), tuple(blank), others, len(beyond))


def make_document(bundle: Bundle, item: Mapping[str, Any], *, where: str | None = None) -> tuple[str, dict[str, Any]]:
    """Turn an item into ``_id`` and document: its own fields, ``darl_text``, ``darl_id`` and ``darl_slice``.

    For a bundle that scores in chunks, also ``darl_long_text``, the text of all chunks.

    :param where: file and line to name in an error.
    """
    template = bundle.card.template
    item_id, text = template.item_id(item, where=where), bundle.renderer(item, where=where)
    first = text if template.chunks == 1 else bundle.renderer.first(text)
    own = {
        TEXT_FIELD: guard_item(first),
        bundle.card.text_field: guard_item(text),
        ID_FIELD: item_id,
        SLICE_FIELD: template.slice_of(item),
    }
    return item_id, {**item, **own}


def _documents(
    bundle: Bundle, items: str | os.PathLike[str], blank: Container[str], beyond: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make the documents; the ids of items with text beyond their last chunk are appended to ``beyond``."""
    for where, item in read_jsonl(Path(items)):
        if bundle.card.template.item_id(item, where=where) not in blank:
            item_id, document = make_document(bundle, item, where=where)
            if bundle.renderer.goes_beyond(item):
                beyond.append(item_id)
            yield item_id, document


def _prepare(cluster: Cluster, index: str, *, recreate: bool, shards: int, long_text: bool) -> bool:
    mapping = render_body("items_mapping.json", long_text={"type": "text"} if long_text else OMIT)
    existing = cluster.read("GET", join_path(index), absent={})
    _check_target(cluster, index, existing)
    if existing and recreate:
        cluster.send("DELETE", join_path(index))
        existing = {}
    if not existing:
        cluster.send("PUT", join_path(index), render_body("items_index.json", shards=shards, mappings=mapping))
        return True
    for name, definition in existing.items():
        properties = definition.get("mappings", {}).get("properties", {})
        for field, wanted in mapping["properties"].items():
            kind = properties.get(field, {}).get("type", wanted["type"])
            if kind != wanted["type"]:
                raise ClusterError(
                    f"{field} is of type {kind} in index {name}, not {wanted['type']}",
                    where=cluster.url,
                    todo="load into another index, or run again with --recreate",
                )
        if not mapping["properties"].keys() <= properties.keys():
            cluster.send("PUT", join_path(name, "_mapping"), mapping)
    return False


def _check_target(cluster: Cluster, index: str, existing: Mapping[str, Any]) -> None:
    """Refuse a target that would take no item, before anything is sent to it."""
    if streams := sorted({str(body["data_stream"]) for body in existing.values() if "data_stream" in body}):
        raise ClusterError(
            f"{index} is {'a' if streams == [index] else 'an alias of a'} data stream, which cannot hold items: it "
            "takes new documents only",
            where=cluster.url,
            todo="load into an index of another name",
        )
    marked = {name for name, body in existing.items() if body.get("aliases", {}).get(index, {}).get("is_write_index")}
    if len(existing) > 1 and not marked:
        raise ClusterError(
            f"{index} is an alias of {len(existing)} indices, none of which is its write index",
            where=cluster.url,
            todo=f"load into one of them: {', '.join(sorted(existing)[:5])}",
        )
    for name in marked or existing:
        blocks = existing[name].get("settings", {}).get("index", {}).get("blocks", {})
        for block in (block for block in WRITE_BLOCKS if str(blocks.get(block)) == "true"):
            what, todo = explain_block(f"index {name}", f"index.blocks.{block}")
            raise ClusterError(what, where=cluster.url, todo=todo)


def _send(
    cluster: Cluster,
    documents: Iterator[tuple[str, dict[str, Any]]],
    index: str,
    places: Mapping[str, str],
    count: int,
    on_item: Callable[[int, int], None] | None,
) -> tuple[int, list[FailedItem]]:
    from opensearchpy.helpers import streaming_bulk

    actions = ({"_op_type": "index", "_index": index, "_id": key, "_source": source} for key, source in documents)
    indexed, failed = 0, list[FailedItem]()
    with calling(cluster.url):
        results = streaming_bulk(
            cluster.client,
            actions,
            chunk_size=BULK_ITEMS,
            max_chunk_bytes=BULK_BYTES,
            raise_on_error=False,
            max_retries=5,
            initial_backoff=1,
        )
        for number, (taken, result) in enumerate(results, 1):
            if taken:
                indexed += 1
            elif len(failed) < KEPT_FAILURES:
                answer = result["index"]
                failed.append(FailedItem(places[answer["_id"]], answer["_id"], _reason(answer.get("error"))))
            if on_item is not None and (number % 100 == 0 or number == count):
                on_item(number, count)
    return indexed, failed


def _reason(error: Any) -> str:
    """Return the innermost reason of a bulk item's error."""
    if refused := explain_refusal(error):
        return refused[0]
    reason = str(error)
    while isinstance(error, dict):
        reason, error = str(error.get("reason") or reason), error.get("caused_by")
    return " ".join(reason.split())[:240]
