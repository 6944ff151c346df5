"""Models in ML Commons: finding, uploading, deploying and removing them.

A model is identified by name and version (``name:version``) and by the digest of everything that affects its scores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle, Card
from darl_opensearch.cluster.calls import Cluster, join_path, status_of
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import BundleError, ClusterError
from darl_opensearch.io.digest import digest_data

CHUNK_BYTES = 10_000_000  # ML Commons takes no more in one request
MAX_LOCAL_BYTES = files.MAX_ONE_FILE
EXTERNAL_DATA = files.MODEL_DATA
HALF_REGISTERED = ("REGISTERING", "REGISTER_FAILED")
PENDING_ID = "<model_id>"  # stands for an id that a dry run cannot know
POLL_SECONDS = 0.2
NOT_FOUND = 404
CONFLICT = 409
MOST_FOUND = 1000  # of a search in ML Commons

OnChunk = Callable[[int, int], object]


@dataclass(frozen=True)
class FoundModel:
    """A model in ML Commons.

    :param state: such as ``DEPLOYED``.
    :param digest: digest it was registered with; ``""`` if not by darl.
    :param connector_id: of a remote model.
    """

    model_id: str
    name: str
    state: str
    digest: str
    connector_id: str | None
    group_id: str | None

    @property
    def half_registered(self) -> bool:
        """Whether its upload was interrupted."""
        return self.state in HALF_REGISTERED


def local_name(card: Card) -> str:
    """Name a bundle's in-cluster model: ``name:version``; neither part can hold a colon."""
    return f"{card.name}:{card.version}"


def connector_name(card: Card) -> str:
    """Name a bundle's connector and remote model."""
    return f"{card.name}:{card.version} (connector)"


def describe_model(card: Card, digest: str) -> str:
    """Describe a connector or model on one line, by which it is recognised again.

    ML Commons allows letters, digits, blanks and plain punctuation.
    """
    return f"DaRL {card.name} {card.version}, sha256 {digest}"


def find_models(cluster: Cluster, name: str) -> list[FoundModel]:
    """Find models by name, oldest first, in the same order for all who ask."""
    return search_models(
        cluster, render_body("find_model.json", name=name),
        order=lambda hit: (hit["_source"].get("created_time", 0), hit["_id"]),
    )  # fmt: skip


def find_models_by_id(cluster: Cluster, model_ids: Collection[str]) -> list[FoundModel]:
    """Find models by id."""
    wanted = sorted(model_ids)
    return search_models(cluster, render_body("find_models.json", size=len(wanted), model_ids=wanted))


def find_models_where(cluster: Cluster, field: str, values: Collection[str]) -> list[FoundModel]:
    """Find models, whoever registered them, by the values of a field.

    :param field: such as ``model_group_id``.
    """
    if not values:
        return []
    return search_models(
        cluster, render_body("find_models_where.json", size=MOST_FOUND, field=field, values=sorted(values))
    )


def search_models(
    cluster: Cluster, body: Mapping[str, Any], *, order: Callable[[Mapping[str, Any]], Any] | None = None
) -> list[FoundModel]:
    """Search for models.

    :param order: key of a hit to sort by; None: as ML Commons answers.
    """
    # ML Commons answers 404 while no model was ever registered: its index is made with the first.
    answer = cluster.read("POST", "/_plugins/_ml/models/_search", body, absent={})
    hits = answer.get("hits", {}).get("hits", [])
    return [read_model(hit) for hit in (sorted(hits, key=order) if order else hits)]


def check_local_size(bundle: Bundle) -> None:
    """Refuse a bundle that ML Commons cannot hold.

    :raises BundleError: if it is too large, or split into two files.
    """
    sizes = {
        name: (bundle.path / name).stat().st_size
        for name in (files.MODEL, EXTERNAL_DATA, files.ZIP)
        if name in bundle.digests
    }
    size = max(sizes.pop(files.ZIP, 0), sum(sizes.values()))
    if size > MAX_LOCAL_BYTES or EXTERNAL_DATA in bundle.digests:
        raise BundleError(
            f"the model has {size / 1e9:.1f} GB, but ML Commons accepts at most {MAX_LOCAL_BYTES / 1e9:.1f} GB",
            where=str(bundle.path),
            todo="use --mode connector, or register the student distilled from it",
        )


def find_local_limits(card: Card) -> str:
    """Say what of a bundle a model in the cluster does not serve; ``""``: nothing."""
    chunks = card.template.chunks
    if chunks == 1:
        return ""
    return (
        f"the bundle scores a long item in up to {chunks} chunks, but a model in the cluster only the first, although "
        "grades and OOD scores are calibrated for all: use --mode connector"
    )


def upload(cluster: Cluster, bundle: Bundle, on_chunk: OnChunk | None = None) -> str:
    """Upload a bundle's model in chunks and return its id; it is not deployed yet.

    :param on_chunk: called after each chunk with chunks done and chunks in all.
    """
    check_local_size(bundle)
    archive = bundle.file(files.ZIP)
    size = archive.stat().st_size
    chunks = -(-size // CHUNK_BYTES)
    body = render_body(
        "register_local.json",
        name=local_name(bundle.card),
        version=bundle.card.version,
        description=describe_model(bundle.card, bundle.identity),  # ML Commons gives it to the model group too
        card=json.dumps(_summary(bundle), ensure_ascii=True, separators=(",", ":")),
        sha256=bundle.identity,
        size_bytes=size,
        chunks=chunks,
    )
    pretend = {"model_id": PENDING_ID}
    model_id = str(cluster.send("POST", "/_plugins/_ml/models/_register_meta", body, pretend=pretend)["model_id"])
    with archive.open("rb") as file:
        for number in range(chunks):  # in order: ML Commons takes the model for complete when the last one arrives
            data = file.read(CHUNK_BYTES)
            shown = {"bytes": len(data), "sha256": digest_data(data)}
            where = f"{join_path('_plugins', '_ml', 'models', model_id, 'upload_chunk')}/{number}"
            cluster.send("POST", where, shown, content=data)
            if on_chunk is not None:
                on_chunk(number + 1, chunks)
    return model_id


def deploy(cluster: Cluster, model_id: str, *, timeout: float) -> None:
    """Load a model into memory and wait until it answers.

    :param timeout: seconds.
    :raises ClusterError: if it failed or took too long.
    """

    def request() -> None:
        answer = cluster.send("POST", join_path("_plugins", "_ml", "models", model_id, "_deploy"))
        if not cluster.dry_run:
            wait_for(cluster, str(answer.get("task_id")), f"deploying model {model_id}", timeout=timeout)

    # Another deployment of it may be under way: one that a killed command had asked for, for example.
    send_when_free(cluster, request, lambda err: "version conflict" in err.what, timeout=timeout)


def send_when_free(
    cluster: Cluster, request: Callable[[], object], is_busy: Callable[[ClusterError], bool], *, timeout: float
) -> None:
    """Send a request again until what it changes is no longer in use by another one.

    :param request: sends it; only its last attempt stays recorded in ``cluster.calls``.
    :param is_busy: whether its error says that it is in use.
    :param timeout: seconds.
    :raises ClusterError: the last error, if it says something else or the time is up.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            request()
            return
        except ClusterError as err:
            if not is_busy(err) or time.monotonic() > deadline:
                raise
            cluster.calls.pop()
            time.sleep(POLL_SECONDS)


def wait_for(cluster: Cluster, task_id: str, doing: str, *, timeout: float) -> dict[str, Any]:
    """Wait for a task of ML Commons.

    :param doing: what the task does, for messages.
    :param timeout: seconds.
    :raises ClusterError: if it failed or took too long.
    """
    deadline = time.monotonic() + timeout
    while True:
        task = cluster.read("GET", join_path("_plugins", "_ml", "tasks", task_id))
        state = task.get("state")
        if state == "COMPLETED":
            return task
        if state in ("FAILED", "COMPLETED_WITH_ERROR", "CANCELLED", "EXPIRED"):
            raise ClusterError(
                f"{doing} failed: {_cause(task.get('error'))}",
                where=cluster.url,
                todo="check the node's log; undeploy other models if it is out of memory, then run this again",
            )
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{doing} did not finish within {timeout:g} s (task {state})",
                where=cluster.url,
                todo="check the node's log, then run the same command again: nothing is uploaded twice",
            )
        time.sleep(POLL_SECONDS)


def read_profiles(cluster: Cluster, model_id: str) -> dict[str, Mapping[str, Any]]:
    """Read what the nodes that have a model in memory, or are loading it, say of it, by node id."""
    answer = cluster.read("GET", join_path("_plugins", "_ml", "profile", "models", model_id), absent={})
    nodes = answer.get("nodes", {})
    return {node: profile["models"][model_id] for node, profile in nodes.items() if model_id in profile["models"]}


def remove_model(cluster: Cluster, model: FoundModel, *, with_group: bool = False, timeout: float = 30.0) -> None:
    """Undeploy and delete a model and its connector.

    :param with_group: delete its model group too; only for the group's last model.
    :param timeout: seconds until ML Commons releases it.
    """
    place = join_path("_plugins", "_ml", "models", model.model_id)
    if not model.half_registered:
        try:
            cluster.send("POST", f"{place}/_undeploy")
        except ClusterError as err:
            if not _is_gone(err):
                raise
    delete_resource(cluster, "models", model.model_id, timeout=timeout)
    if model.connector_id:
        delete_connector(cluster, model.connector_id, timeout=timeout)
    if with_group and model.group_id:
        delete_resource(cluster, "model_groups", model.group_id, timeout=timeout)


def delete_resource(
    cluster: Cluster, kind: str, resource_id: str, *, timeout: float = 30.0,
    is_busy: Callable[[ClusterError], bool] = lambda err: True,
) -> None:  # fmt: skip
    """Delete a model, connector or model group, unless it is gone.

    ML Commons reports "undeployed" and "deleted" slightly too early, so this tries again for a while.

    :param kind: ``models``, ``connectors`` or ``model_groups``.
    :param timeout: seconds.
    :param is_busy: whether trying again may help after a refusal.
    """
    request = partial(cluster.send, "DELETE", join_path("_plugins", "_ml", kind, resource_id))
    try:
        send_when_free(cluster, request, lambda err: not _is_gone(err) and is_busy(err), timeout=timeout)
    except ClusterError as err:
        if not _is_gone(err):
            raise


def delete_connector(cluster: Cluster, connector_id: str, *, timeout: float = 30.0) -> None:
    """Delete a connector, unless it is gone, or leave it in ``cluster.left`` if ML Commons mistakes it for one in use.

    ML Commons looks for models that use a connector in a text field, where ids are split at their hyphens: a model
    whose connector's id shares a part with this one is taken for a user. Nothing but deleting that model helps.

    :param timeout: seconds.
    """
    mistaken = False  # of the last refusal: a deleted model is still found for a moment

    def is_busy(err: ClusterError) -> bool:
        nonlocal mistaken
        before, mistaken = mistaken, False
        if status_of(err) == CONFLICT:
            mistaken = not find_models_where(cluster, "connector_id.keyword", [connector_id])
        return not (before and mistaken)

    try:
        delete_resource(cluster, "connectors", connector_id, timeout=timeout, is_busy=is_busy)
    except ClusterError:
        if not mistaken:
            raise
        cluster.left.append(connector_id)


def describe_left(cluster: Cluster) -> str:
    """Describe the connectors that could not be deleted; ``""``: none."""
    if not cluster.left:
        return ""
    return (
        f"connector {', '.join(cluster.left)} is left: no model uses it, but ML Commons takes models for its users "
        "whose connectors' ids share a part with its own; it has no effect, and can be deleted once those are gone"
    )


def _is_gone(err: ClusterError) -> bool:
    return status_of(err) == NOT_FOUND


def read_model(hit: Mapping[str, Any]) -> FoundModel:
    """Read a search hit."""
    source = hit["_source"]
    description = str(source.get("description") or "")
    digest = str(source.get("model_content_hash_value") or "")
    if source.get("algorithm") == "REMOTE":
        digest = description.rpartition(", sha256 ")[2] if description.startswith("DaRL ") else ""
    elif '"darl"' not in str((source.get("model_config") or {}).get("all_config")):
        digest = ""
    return FoundModel(
        model_id=str(hit["_id"]),
        name=str(source.get("name")),
        state=str(source.get("model_state")),
        digest=digest,
        connector_id=source.get("connector_id"),
        group_id=source.get("model_group_id"),
    )


def _summary(bundle: Bundle) -> dict[str, Any]:
    card = bundle.card
    return {
        "darl": {
            "name": card.name,
            "version": card.version,
            "grades": list(card.scale.names),
            "gains": list(card.scale.gains),
            "columns": list(card.columns.hit_fields()),
            "alpha": card.ood.alpha,
        }
    }


def _cause(error: Any) -> str:
    """Extract the reason from a task's error: JSON of node to reason, or text."""
    try:
        parsed = json.loads(str(error))
    except ValueError:
        parsed = error
    text = "; ".join(map(str, parsed.values())) if isinstance(parsed, dict) else str(parsed)
    return " ".join(text.split())[:300]
