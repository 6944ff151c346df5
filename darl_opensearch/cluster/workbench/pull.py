"""Reading a list of judgments from the Workbench."""

from __future__ import annotations

from typing import Any

from darl_opensearch.cluster.workbench.api import Workbench
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.settings import nearest


def fetch_judgments(workbench: Workbench, words: str) -> dict[str, Any]:
    """Read a list of judgments.

    :param words: its id or its name.
    :return: the document, with ``id`` and ``judgmentRatings``.
    :raises UsageError: if there is none, or the name has several.
    :raises ClusterError: if it is not complete.
    """
    document = workbench.get("judgments", words)
    if document is None:
        named = workbench.find("judgments", words)
        if len(named) > 1:
            ids = ", ".join(f"{one['id']} ({one.get('status')})" for one in named[:5])
            raise UsageError(f"{len(named)} lists of judgments are called {words!r}", todo=f"pass an id: {ids}")
        if named:
            document = workbench.get("judgments", named[0]["id"])
    if document is None:
        known = [str(one["name"]) for one in workbench.find("judgments") if one.get("name")]
        raise UsageError(
            f"there are no judgments {words!r}", where=workbench.cluster.url, todo=nearest(words, sorted(set(known)))
        )
    if document.get("status") not in (None, "COMPLETED"):
        raise ClusterError(
            f"judgments {words!r} have status {document['status']}", where=workbench.cluster.url,
            todo="wait until they are complete, or make them again",
        )  # fmt: skip
    return document
