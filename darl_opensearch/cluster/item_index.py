"""Reading the item index: as a first stage, and text by text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.config_files import render_body
from darl_opensearch.connect import NO_PIPELINE, ClusterOptions, calling
from darl_opensearch.text import ID_FIELD, TEXT_FIELD

PAGE = 500  # texts of a request
ItemSearch = Callable[[str, int], Sequence[str]]


@contextlib.contextmanager
def open_first_stage(options: ClusterOptions, index: str) -> Iterator[ItemSearch]:
    """Search an index without a search pipeline.

    :yields: a function of query and depth that returns item ids, best first.
    """
    cluster = Cluster.open(options)
    try:
        cluster.identify()
        yield make_first_stage(cluster, index)
    finally:
        cluster.client.close()


def make_first_stage(cluster: Cluster, index: str) -> ItemSearch:
    """Make an open cluster's first-stage search: a function of query and depth that returns item ids, best first."""

    def retrieve(query: str, size: int) -> list[str]:
        body = render_body("search.json", size=size, query=query)
        answer = cluster.search(index, body)
        hits = answer.get("hits", {}).get("hits", [])
        return [str((hit.get("_source") or {}).get(ID_FIELD, hit.get("_id"))) for hit in hits]

    return retrieve


def scan_texts(cluster: Cluster, index: str, field: str = TEXT_FIELD) -> Iterator[str]:
    """Read the text of every item that has one, in no order."""
    from opensearchpy.helpers import scan

    body = {"_source": [field], "query": {"exists": {"field": field}}}
    with calling(cluster.url):
        for hit in scan(cluster.client, index=index, query=body, size=PAGE, params=dict(NO_PIPELINE)):
            if text := (hit.get("_source") or {}).get(field):
                yield str(text)


def count_items(cluster: Cluster, index: str) -> int:
    """Count the items of an index."""
    return int(cluster.read("GET", join_path(index, "_count"))["count"])
