"""What there is of a pipeline and its bundles, and what else uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from darl_opensearch.cluster import models
from darl_opensearch.cluster.calls import Cluster, is_ours, join_path
from darl_opensearch.cluster.history import Served
from darl_opensearch.cluster.models import FoundModel
from darl_opensearch.cluster.pipelines import fetch_pipelines, list_models_in
from darl_opensearch.cluster.preflight import CHANGEABLE
from darl_opensearch.cluster.uninstall.removal import Kept, UninstallOptions
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError
from darl_opensearch.text import TEXT_FIELD

LOG_MARK = "Out-of-distribution records of DaRL"
MOST_EVENTS = 10_000  # OpenSearch's limit for one search


def find_users(
    cluster: Cluster, options: UninstallOptions, mine: Collection[str], *, index: bool
) -> dict[str, list[str]]:
    """Find what else names a model: search and ingest pipelines, and the history of another pipeline; by model id.

    :param mine: names of the pipelines that go.
    :param index: whether there is a history.
    """
    users: dict[str, list[str]] = {}
    searching = {name: body for name, body in fetch_pipelines(cluster).items() if name not in mine}
    ingesting = cluster.read("GET", "/_ingest/pipeline", absent={})
    for kind, found in (("search", searching), ("ingest", ingesting)):
        for name, body in found.items():
            for model in list_models_in(body):
                users.setdefault(model, []).append(f"{kind} pipeline {name} uses it")
    for source in read_other_events(cluster, options)[1] if index else ():
        for part in (source.get("from"), source.get("to")):
            if part and part.get("model_id"):
                users.setdefault(part["model_id"], []).append(f"pipeline {source['pipeline']} can go back to it")
    return users


def read_other_events(cluster: Cluster, options: UninstallOptions) -> tuple[int, list[dict[str, Any]]]:
    """Count the events of other pipelines in the same history, and read their models."""
    body = render_body("find_other_releases.json", size=MOST_EVENTS, pipeline=options.pipeline)
    hits = cluster.search(options.history, body, absent={}).get("hits", {})
    return int(hits.get("total", {}).get("value", 0)), [hit["_source"] for hit in hits.get("hits", [])]


def find_all_models(cluster: Cluster, ids: Collection[str], names: Iterable[str]) -> list[FoundModel]:
    """Find models by id, and all models of some bundles."""
    found = {model.model_id: model for model in (models.find_models_by_id(cluster, ids) if ids else ())}
    for name in sorted(names):
        for hit in find_named(cluster, "models", f"{name}:"):
            found.setdefault(str(hit["_id"]), models.read_model(hit))
    return list(found.values())


def sort_models(found: Iterable[FoundModel], users: Mapping[str, Sequence[str]]) -> tuple[list[FoundModel], list[Kept]]:
    """Return the models to remove, and those that are left, with the reason.

    :param users: see :func:`find_users`.
    """
    going, kept = [], []
    for model in found:
        what = f"model {model.name} ({model.model_id})"
        if not model.digest:
            kept.append(Kept(what, "it was not registered by darl"))
        elif why := users.get(model.model_id):
            kept.append(Kept(what, why[0]))
        else:
            going.append(model)
    return going, kept


def find_orphans(cluster: Cluster, names: Iterable[str], going: Sequence[FoundModel]) -> tuple[str, ...]:
    """Find connectors of these bundles that no model uses, left by an interrupted registration."""
    ids = {
        str(hit["_id"]) for name in names for hit in find_named(cluster, "connectors", f"{name}:")
        if is_ours(hit["_source"])
    }  # fmt: skip
    used = models.find_models_where(cluster, "connector_id.keyword", ids)
    return tuple(sorted(ids - {model.connector_id for model in (*used, *going)}))


def find_model_groups(
    cluster: Cluster, names: Iterable[str], served: Iterable[Served], found: Iterable[FoundModel],
    going: Iterable[FoundModel],
) -> tuple[dict[str, str], list[Kept]]:  # fmt: skip
    """Find the model groups that ML Commons made for the models, which have the models' names and descriptions.

    :param found: see :func:`find_all_models`.
    :return: names by id, and those that are left since another model is in them.
    """
    ours = {model.name for model in found if model.digest}
    for one in served:
        ours |= {f"{one.name}:{one.version}", f"{one.name}:{one.version} (connector)"}
    hits = [hit for name in names for hit in find_named(cluster, "model_groups", f"{name}:")]
    groups = {
        str(hit["_id"]): str(source["name"]) for hit in hits
        if (source := hit["_source"]).get("name") in ours or is_ours(source)
    }  # fmt: skip
    leaving, kept = {model.model_id for model in going}, []
    for model in models.find_models_where(cluster, "model_group_id", groups.keys()):
        if model.model_id not in leaving and model.group_id in groups:
            what = f"model group {groups.pop(model.group_id)} ({model.group_id})"
            kept.append(Kept(what, f"it holds model {model.name}"))
    return groups, kept


def find_log(cluster: Cluster, options: UninstallOptions) -> tuple[bool, bool, list[Kept]]:
    """Tell whether the data stream and its template are to be deleted.

    :raises ClusterError: if they are to be, and darl did not make them.
    """
    stream, place = options.stream, join_path("_index_template", options.stream)
    streams = cluster.read("GET", join_path("_data_stream", stream), absent={}).get("data_streams") or []
    templates = cluster.read("GET", place, absent={}).get("index_templates") or []
    meta = templates[0].get("index_template", {}).get("_meta", {}) if templates else {}
    ours = str(meta.get("description", "")).startswith(LOG_MARK)
    if options.ood_log:
        if (streams or templates) and not ours:
            raise ClusterError(
                f"data stream {stream} has no index template of darl", where=cluster.url,
                todo="check --stream, or delete it yourself",
            )  # fmt: skip
        return bool(streams), bool(templates), []
    kept = []
    if ours:
        kept.append(Kept(f"data stream {stream}" if streams else f"index template {stream}",
                         "it holds the OOD log" if streams else "it is for the OOD log",
                         "--ood-log deletes it"))  # fmt: skip
    return False, False, kept


def find_items(cluster: Cluster) -> list[Kept]:
    """Find the indexes with items of ``darl index``: they are the user's."""
    answer = cluster.read("GET", f"/*,-.*/_mapping/field/{TEXT_FIELD}", absent={})
    why = "items, with the darl_ fields that darl index added, are never touched"
    return [Kept(f"index {name}", why) for name, held in sorted(answer.items()) if held.get("mappings")]


def find_changed_settings(cluster: Cluster) -> list[Kept]:
    """Find settings that ``--apply-settings`` may have changed: nothing tells whether it did."""
    stored = cluster.read("GET", "/_cluster/settings?flat_settings=true").get("persistent") or {}
    why = "darl register --apply-settings may have set it, and other models may need it"
    return [
        Kept(f"setting {name}", why, f'to reset it, send PUT /_cluster/settings {{"persistent": {{"{name}": null}}}}')
        for name in CHANGEABLE if name in stored
    ]  # fmt: skip


def find_named(cluster: Cluster, kind: str, prefix: str) -> list[dict[str, Any]]:
    """Find models, connectors or model groups whose name begins so; returns search hits.

    :param kind: ``models``, ``connectors`` or ``model_groups``.
    """
    body = render_body("find_named.json", size=models.MOST_FOUND, prefix=prefix)
    answer = cluster.read("POST", join_path("_plugins", "_ml", kind, "_search"), body, absent={})
    return list(answer.get("hits", {}).get("hits", []))
