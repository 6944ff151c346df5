"""Reading the OOD log from a spool or from the data stream.

Both yield each record once, sorted by time and id, so that reports do not depend on the store.
"""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from darl_opensearch.cluster_errors import not_opensearch
from darl_opensearch.connect import NO_PIPELINE, calling
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.io.progress import count_up
from darl_opensearch.ood.record import (
    Kind,
    PairRecord,
    Record,
    RequestRecord,
    format_timestamp,
    record_from_json,
    to_ms,
)
from darl_opensearch.ood.spool import Spool
from darl_opensearch.ood.stream import STREAM
from darl_opensearch.text import ID_FIELD, TEXT_FIELD

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

PAGE_RECORDS = 2000
KEEP_ALIVE = "5m"  # of the point in time, renewed by each page


class OodStore(ABC):
    """A source of OOD records."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The store, for messages."""

    def requests(
        self, *, since: datetime | None = None, until: datetime | None = None, not_reranked: bool = False
    ) -> Iterator[RequestRecord]:
        """Read request records by time, each once.

        :param since: earliest time, included.
        :param until: latest time, excluded.
        :param not_reranked: also yield searches that were not reranked, which say nothing about the traffic's scores.
        """
        records = (
            r for r in count_up(self._read("request", since, until), "reading requests") if isinstance(r, RequestRecord)
        )
        return (r for r in records if r.reranked or not_reranked)

    def pairs(self, *, since: datetime | None = None, until: datetime | None = None) -> Iterator[PairRecord]:
        """Read pair records by time, each once.

        :param since: earliest time, included.
        :param until: latest time, excluded.
        """
        return (r for r in count_up(self._read("pair", since, until), "reading pairs") if isinstance(r, PairRecord))

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """Read the spool's counters; empty for a store without a spool."""

    @abstractmethod
    def _read(self, kind: Kind, since: datetime | None, until: datetime | None) -> Iterator[Record]:
        """Read the records of a kind."""


class SpoolStore(OodStore):
    """A spool as a store.

    :param page_records: records per page.
    """

    def __init__(self, path: str | os.PathLike[str], *, page_records: int = PAGE_RECORDS) -> None:
        self._spool = Spool.open(path)
        self._page_records = page_records

    def __enter__(self) -> SpoolStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def where(self) -> str:
        """The spool's path."""
        return str(self._spool.path)

    def close(self) -> None:
        """Close the spool."""
        self._spool.close()

    def counters(self) -> dict[str, int]:
        """Read the spool's counters."""
        return self._spool.counters()

    def _read(self, kind: Kind, since: datetime | None, until: datetime | None) -> Iterator[Record]:
        after: tuple[int, str] | None = None
        while page := self._spool.page(
            after=after,
            kind=kind,
            since_ms=to_ms(since) if since else None,
            until_ms=to_ms(until) if until else None,
            limit=self._page_records,
        ):
            for row in page:
                yield record_from_json(json.loads(row.body))
            after = page[-1].timestamp_ms, page[-1].record_id


class StreamStore(OodStore):
    """The data stream as a store.

    :param where: the cluster's URL, for messages.
    :param page_records: records per page, at most 10,000.
    """

    def __init__(
        self,
        client: OpenSearch,
        *,
        stream: str = STREAM,
        where: str = "the cluster",
        page_records: int = PAGE_RECORDS,
    ) -> None:
        if not stream:
            raise UsageError("the name of the data stream is empty", todo=f"omit --stream to use {STREAM}")
        self._client, self._stream, self._url = client, stream, where
        self._page_records = page_records

    @property
    def where(self) -> str:
        """The cluster and the stream's name."""
        return f"{self._url}, {self._stream}"

    def counters(self) -> dict[str, int]:
        """Return no counters: they are kept by spools only."""
        return {}

    def _read(self, kind: Kind, since: datetime | None, until: datetime | None) -> Iterator[Record]:
        from opensearchpy.exceptions import NotFoundError

        with calling(self._url):
            try:
                opened = self._client.create_pit(index=self._stream, params={"keep_alive": KEEP_ALIVE})
            except NotFoundError:
                return  # nothing has been shipped yet
        if not isinstance(opened, dict) or "pit_id" not in opened:
            raise not_opensearch(self._url)
        pit = opened["pit_id"]
        try:
            after: list[Any] | None = None
            last = None
            while hits := self._page(pit, kind, since, until, after):
                for hit in hits:
                    # Ids are unique per backing index only. Duplicates of a batch that was resent across a rollover
                    # have the same time and id, so they are adjacent here.
                    if hit["sort"] != last:
                        yield record_from_json(hit["_source"])
                    last = hit["sort"]
                after = last
        finally:
            with contextlib.suppress(ClusterError), calling(self._url):  # it expires anyway
                self._client.delete_pit(body={"pit_id": [pit]})

    def most_logged(self, count: int) -> list[str]:
        """Find the items with most pairs in the traffic, as estimated from the sample that is logged.

        :param count: how many.
        :return: their ids, most frequent first.
        """
        items = {
            "terms": {"field": "item_id", "size": count, "order": {"pairs": "desc"}},
            "aggs": {"pairs": {"sum": {"field": "weight"}}},
        }
        body = {"size": 0, "query": {"term": {"kind": "pair"}}, "aggs": {"items": items}}
        with calling(self._url):
            params = {"ignore_unavailable": "true", **NO_PIPELINE}
            answer = self._client.search(index=self._stream, body=body, params=params)
        return [str(bucket["key"]) for bucket in answer.get("aggregations", {}).get("items", {}).get("buckets", [])]

    def _page(
        self, pit: str, kind: Kind, since: datetime | None, until: datetime | None, after: list[Any] | None
    ) -> list[dict[str, Any]]:
        bounds = {"gte": format_timestamp(since)} if since else {}
        if until:
            bounds["lt"] = format_timestamp(until)
        filters: list[dict[str, Any]] = [{"term": {"kind": kind}}]
        if bounds:
            filters.append({"range": {"@timestamp": bounds}})
        body: dict[str, Any] = {
            "size": self._page_records,
            "query": {"bool": {"filter": filters}},
            "pit": {"id": pit, "keep_alive": KEEP_ALIVE},
            # No further tie-break: a page begins after all duplicates of the last record.
            "sort": [{"@timestamp": "asc"}, {"record_id": "asc"}],
            "track_total_hits": False,
        }
        if after is not None:
            body["search_after"] = after
        with calling(self._url):
            answer = self._client.search(body=body, params=dict(NO_PIPELINE))
        hits: list[dict[str, Any]] = answer["hits"]["hits"]
        return hits


@dataclass(frozen=True)
class JoinedTexts:
    """Item texts from the item index.

    :param texts: by item id.
    :param missing: ids without a text in the index.
    """

    texts: Mapping[str, str]
    missing: tuple[str, ...]


def join_texts(
    client: OpenSearch,
    index: str,
    ids: Sequence[str],
    *,
    text_field: str = TEXT_FIELD,
    where: str = "the cluster",
    chunk: int = 500,
) -> JoinedTexts:
    """Fetch texts of items that were logged without text.

    :param ids: item ids; repeats are requested once.
    :param text_field: field of the texts, see :attr:`darl_opensearch.bundle.Card.text_field`.
    :param where: the cluster's URL, for messages.
    :param chunk: ids per request.
    """
    wanted = list(dict.fromkeys(ids))
    texts: dict[str, str] = {}
    for start in range(0, len(wanted), chunk):
        part = wanted[start : start + chunk]
        body = {
            "size": len(part),
            "query": {"bool": {"filter": [{"terms": {ID_FIELD: part}}]}},
            "collapse": {"field": ID_FIELD},  # a repeated id must not crowd out another
            "_source": [ID_FIELD, text_field],
            "track_total_hits": False,
        }
        with calling(where):
            answer = client.search(index=index, body=body, params=dict(NO_PIPELINE))
        for hit in answer["hits"]["hits"]:
            source = hit["_source"]
            if source.get(text_field):
                texts[str(source[ID_FIELD])] = str(source[text_field])
    return JoinedTexts(texts, tuple(item_id for item_id in wanted if item_id not in texts))
