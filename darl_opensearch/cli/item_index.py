"""What commands ask of the item index: searches and texts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darl_opensearch.cluster.connect import ClusterOptions


@contextlib.contextmanager
def item_search(options: ClusterOptions, index: str) -> Iterator[Callable[[str, int], Sequence[str]]]:
    """Search an index as it is: no search pipeline reranks what is asked for here.

    :param options: how to reach the cluster.
    :param index: the index.
    :yields: a function of a query and a number of hits that answers item ids, best first.
    """
    from darl_opensearch.cluster import Cluster, render
    from darl_opensearch.cluster.calls import path
    from darl_opensearch.text import ID_FIELD

    cluster = Cluster.open(options)
    try:
        cluster.identify()

        def retrieve(query: str, size: int) -> list[str]:
            body = render("search.json", size=size, query=query)
            answer = cluster.read("POST", f"{path(index, '_search')}?search_pipeline=_none", body)
            hits = answer.get("hits", {}).get("hits", [])
            return [str((hit.get("_source") or {}).get(ID_FIELD, hit.get("_id"))) for hit in hits]

        yield retrieve
    finally:
        cluster.client.close()
