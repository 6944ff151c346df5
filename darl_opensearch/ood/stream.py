"""The ``darl-ood`` data stream and its index template, both created before records are sent.

Without the template, the first record would create a plain index with dynamic mappings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from darl_opensearch.cluster_errors import not_opensearch
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

STREAM = "darl-ood"
TEMPLATE_FILE = "ood_index_template.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,200}")  # never a wildcard, a list, or a system name


def template(stream: str = STREAM) -> dict[str, Any]:
    """Render the body of ``PUT _index_template/<stream>``."""
    return render_body(TEMPLATE_FILE, stream=stream)


def ensure_stream(client: OpenSearch, stream: str = STREAM) -> bool:
    """Put the template and create the data stream; bring one of an earlier version up to date. Idempotent.

    :return: whether the stream was created.
    :raises ClusterError: if an index or an alias has that name.
    """
    from opensearchpy.exceptions import RequestError

    if stream_exists(client, stream):
        if update := find_update(client, stream):
            mappings, body = update
            client.indices.put_mapping(index=stream, body=mappings)  # of all its backing indices: no roll-over
            client.indices.put_index_template(name=stream, body=body)
        return False
    client.indices.put_index_template(name=stream, body=template(stream))
    try:
        client.indices.create_data_stream(name=stream)
    except RequestError as err:
        if err.error != "resource_already_exists_exception":
            raise
        return False  # another shipper was faster
    return True


def stream_exists(client: OpenSearch, stream: str) -> bool:
    """Check whether a data stream exists, and that one could be created otherwise.

    :raises UsageError: if the name is not one for a data stream.
    :raises ClusterError: if an index or an alias has that name.
    """
    if not _NAME.fullmatch(stream):
        raise UsageError(f"invalid data stream name {stream!r}", todo="use a-z, 0-9, '.', '_', '-'")
    if _is_stream(client, stream):
        return True
    if client.indices.exists(index=stream):
        raise _name_is_taken(stream)
    return False


def find_update(client: OpenSearch, stream: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Find what brings an existing stream of an earlier version up to date; fields are only ever added.

    :return: its new mappings and its new template, which keeps an operator's own shards, replicas or policies; None:
        nothing is to be done.
    """
    from opensearchpy.exceptions import NotFoundError

    wanted = template(stream)
    try:
        answer = client.indices.get_index_template(name=stream)
    except NotFoundError:
        answer = {}
    if not isinstance(answer, dict):
        raise not_opensearch("the cluster")
    found: dict[str, Any] = next((one["index_template"] for one in answer.get("index_templates", ())), {})
    if found.get("version", 1) >= wanted["version"]:
        return None
    mappings = wanted["template"]["mappings"]
    changed = {**found, "version": wanted["version"], "template": {**found.get("template", {}), "mappings": mappings}}
    return mappings, changed if found else wanted


def _is_stream(client: OpenSearch, stream: str) -> bool:
    """Check whether a data stream exists.

    :raises ClusterError: if the name is an alias.
    """
    from opensearchpy.exceptions import NotFoundError, RequestError

    try:
        answer = client.indices.get_data_stream(name=stream)
    except NotFoundError:
        return False
    except RequestError as err:
        if "matches an alias" in str(err.info):
            raise _name_is_taken(stream) from err
        raise
    if not isinstance(answer, dict) or not isinstance(answer.get("data_streams"), list):
        raise not_opensearch("the cluster")
    # For a plain index OpenSearch returns an empty list.
    return any(entry["name"] == stream for entry in answer["data_streams"])


def _name_is_taken(stream: str) -> ClusterError:
    return ClusterError(
        "this is an index or alias, but OOD records require a data stream",
        where=stream,
        todo="delete or rename it, or choose another name with --stream",
    )
