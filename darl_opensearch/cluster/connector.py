"""The connector through which ML Commons calls a scorer, and the remote model on top of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.calls import Cluster, is_ours, join_path
from darl_opensearch.cluster.models import PENDING_ID as PENDING_MODEL
from darl_opensearch.cluster.models import (
    POLL_SECONDS,
    FoundModel,
    connector_name,
    delete_connector,
    describe_model,
    read_profiles,
    send_when_free,
    wait_for,
)
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.io.digest import digest_json
from darl_opensearch.io.urls import holds_credentials, split_http, without_secrets

PENDING_ID = "<connector_id>"
KEY_SECONDS = 60.0
NO_KEY = "none"  # ML Commons wants some credential; a scorer without a key does not look at it


@dataclass(frozen=True)
class ScorerAddress:
    """Address of a scorer.

    :param url: of its rerank route, as the cluster's nodes reach it.
    :param connect_seconds: connection timeout.
    :param answer_seconds: response timeout; ML Commons accepts whole seconds only.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    connect_seconds: int = 2
    answer_seconds: int = 5

    def __post_init__(self) -> None:
        """Refuse a URL that ML Commons could not call."""
        if holds_credentials(self.url):
            raise UsageError(
                "the scorer's URL holds a user or a password",
                where=without_secrets(self.url),
                todo="pass a key with DARL_API_KEY, which ML Commons stores encrypted",
            )
        parts = split_http(self.url)
        if parts is None or not parts.path.strip("/"):
            raise UsageError(
                f"{without_secrets(self.url)!r} is not the URL of a rerank route",
                todo="write it like http://127.0.0.1:8091/v1/rerank",
            )


def digest_connector(bundle: Bundle, scorer: ScorerAddress) -> str:
    """Digest a connector without its key, as 64 hexadecimal digits."""
    body = _body(bundle, scorer, description="", key="")
    return digest_json([bundle.identity, body])


def create_model(cluster: Cluster, bundle: Bundle, scorer: ScorerAddress) -> str:
    """Create connector and remote model, not deployed yet, and return the model's id."""
    card = bundle.card
    body = render_body(
        "register_connector.json",
        name=connector_name(card),
        description=describe_model(card, digest_connector(bundle, scorer)),
        connector_id=create_connector(cluster, bundle, scorer),
    )
    answer = cluster.send("POST", "/_plugins/_ml/models/_register", body, pretend={"model_id": PENDING_MODEL})
    if "model_id" not in answer:  # older versions name the model only when the task is done
        answer = wait_for(cluster, str(answer.get("task_id")), "registering the remote model", timeout=60)
    return str(answer["model_id"])


def create_connector(cluster: Cluster, bundle: Bundle, scorer: ScorerAddress) -> str:
    """Create a connector and return its id; its description tells keys apart."""
    description = f"{_describe_key(bundle, scorer)}, sha256 {digest_connector(bundle, scorer)}"
    body = _body(bundle, scorer, description=description, key=scorer.key or NO_KEY)
    answer: dict[str, Any] = {}

    def request() -> None:
        nonlocal answer
        answer = cluster.send("POST", "/_plugins/_ml/connectors/_create", body, pretend={"connector_id": PENDING_ID})

    # The first one of a cluster makes the key by which credentials are encrypted; ML Commons 2.19 does not wait for it.
    send_when_free(cluster, request, lambda err: "Fetching master key timed out" in err.what, timeout=KEY_SECONDS)
    return str(answer["connector_id"])


def has_key(cluster: Cluster, bundle: Bundle, scorer: ScorerAddress, connector_id: str) -> bool:
    """Whether a connector was created with this key, as far as its description tells."""
    described = f"{_describe_key(bundle, scorer)},"
    return any(
        found == connector_id and str(source.get("description", "")).startswith(described)
        for found, source in _find_connectors(cluster, bundle)
    )


def use_connector(cluster: Cluster, model_id: str, connector_id: str, *, timeout: float) -> None:
    """Make a remote model call through another connector, also while it is deployed and asked.

    ML Commons replaces it in place on every node (ml-commons #1673); a connector itself cannot be changed while a
    deployed model uses it. A model that is being deployed is refused: this waits until it is. ML Commons answers
    before the nodes have replaced it (up to 0.3 s before on 3.6.0, 5.9 s on 2.19.1): this waits for them too.

    :param timeout: seconds to wait.
    :raises ClusterError: if a node keeps the old one.
    """
    before: set[tuple[str, str]] = set()
    deadline = time.monotonic() + timeout

    def request() -> None:
        nonlocal before
        before = _find_loaded(cluster, model_id)
        body = render_body("update_model.json", connector_id=connector_id)
        cluster.send("PUT", join_path("_plugins", "_ml", "models", model_id), body)

    send_when_free(cluster, request, lambda err: "Model is deploying" in err.what, timeout=timeout)
    while not cluster.dry_run and (kept := before & _find_loaded(cluster, model_id)):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"node {min(kept)[0]} still uses the old connector of model {model_id} after {timeout:g} s",
                where=cluster.url,
                todo="check the node's log, then run the same command again",
            )
        time.sleep(POLL_SECONDS)


def _find_loaded(cluster: Cluster, model_id: str) -> set[tuple[str, str]]:
    """Find the nodes that have a model in memory: id of each, and the name of the object, another after each change."""
    profiles = read_profiles(cluster, model_id)
    return {(node, str(model["predictor"])) for node, model in profiles.items() if "predictor" in model}


def remove_orphans(cluster: Cluster, bundle: Bundle, models: list[FoundModel]) -> None:
    """Delete connectors of this name that no model uses, left by an interrupted run."""
    used = {model.connector_id for model in models}
    for found, source in _find_connectors(cluster, bundle):
        if is_ours(source) and found not in used:
            delete_connector(cluster, found)


def _find_connectors(cluster: Cluster, bundle: Bundle) -> list[tuple[str, Mapping[str, Any]]]:
    """Find the connectors of a bundle's name: id and definition of each."""
    body = render_body("find_connector.json", name=connector_name(bundle.card))
    answer = cluster.read("POST", "/_plugins/_ml/connectors/_search", body, absent={})
    return [(str(hit["_id"]), hit["_source"]) for hit in answer.get("hits", {}).get("hits", [])]


def _describe_key(bundle: Bundle, scorer: ScorerAddress) -> str:
    """Name bundle and key, the key by a hash from which it cannot be guessed cheaply (scrypt, RFC 7914)."""
    salt = digest_connector(bundle, scorer).encode()
    hashed = hashlib.scrypt((scorer.key or NO_KEY).encode(), salt=salt, n=2**14, r=8, p=1, dklen=16).hex()
    return f"DaRL {bundle.card.name} {bundle.card.version}, key {hashed}"


def _body(bundle: Bundle, scorer: ScorerAddress, *, description: str, key: str) -> dict[str, Any]:
    return render_body(
        "connector.json",
        name=connector_name(bundle.card),
        description=description,
        api_key=key,
        scorer_url=scorer.url,
        connect_seconds=scorer.connect_seconds,
        answer_seconds=scorer.answer_seconds,
    )
