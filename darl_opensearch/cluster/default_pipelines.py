"""Indices whose searches go through one of our pipelines unless they name another.

A pipeline fetches more candidates than a search asks for and cuts the reranked hits to that number. Its processors
cannot see that a search begins a scroll, so the hits that are cut from the first page are on no later one.
"""

from __future__ import annotations

from collections.abc import Mapping

from darl_opensearch.cluster import pipelines
from darl_opensearch.cluster.calls import Cluster, is_ours
from darl_opensearch.errors import ClusterError, name_some

SETTING = "index.search.default_pipeline"
INDICES = "*,-.*,.ds-*"  # also those behind data streams; a request that meets system indices is warned of
MOST_NAMED = 5


def find_default_pipelines(cluster: Cluster) -> dict[str, str]:
    """Find the indices, of all that the user may read, whose default search pipeline was created by darl.

    :return: the pipeline's name, by index.
    :raises ClusterError: if settings or pipelines cannot be read.
    """
    answer = cluster.read("GET", f"/{INDICES}/_settings/{SETTING}?flat_settings=true&expand_wildcards=all", absent={})
    chosen: dict[str, str] = {}
    for index, held in answer.items():
        name = (held.get("settings") or {}).get(SETTING)
        if name and name != "_none":
            chosen[index] = str(name)
    if not chosen:
        return {}
    ours = {name for name, body in pipelines.fetch_pipelines(cluster).items() if is_ours(body)}
    return {index: name for index, name in sorted(chosen.items()) if name in ours}


def describe_default_pipelines(found: Mapping[str, str]) -> str:
    """Describe what goes wrong on such indices, and what to do; empty without any."""
    if not found:
        return ""
    named = name_some([f"{index} ({name})" for index, name in found.items()], most=MOST_NAMED)
    return (
        f"a darl pipeline is the default of {'index' if len(found) == 1 else f'{len(found)} indices:'} "
        f"{named}: a scroll through it loses documents. Clients that scroll must send "
        "search_pipeline=_none"
    )


def warn_of_default_pipelines(cluster: Cluster) -> str:
    """Describe the indices whose default pipeline is ours, or why that is not known; empty without any."""
    try:
        return describe_default_pipelines(find_default_pipelines(cluster))
    except ClusterError as err:
        return f"whether an index has a darl pipeline by default could not be read ({err.what})"
