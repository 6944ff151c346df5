"""Taking away what was planned.

Models go first, then the pipelines that named them, then the history: so whatever is interrupted, what is still there
tells the same command what is left to do. In between, searches keep their first-stage order.
"""

from __future__ import annotations

from dataclasses import replace

from darl_opensearch.cluster import models
from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.pipelines import fetch_pipeline
from darl_opensearch.cluster.preflight import ML, read_settings
from darl_opensearch.cluster.uninstall.plan import plan_removal
from darl_opensearch.cluster.uninstall.removal import Removal
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError

SAFE_DELETE = ML + "safe_delete_model"


def remove(cluster: Cluster, removal: Removal) -> None:
    """Take away what was planned; what is gone by now is passed over.

    :raises ClusterError: if something was registered for the pipeline meanwhile.
    """
    options = removal.options
    for name, body in removal.pipelines.items():
        if fetch_pipeline(cluster, name) != body:
            raise _changed(cluster, removal, f"search pipeline {name} has changed")
    parts = [_remove_models, _remove_pipelines]
    if str(read_settings(cluster).get(SAFE_DELETE, False)).lower() == "true":  # refuses models that a pipeline names
        parts.reverse()
    for part in parts:
        part(cluster, removal)
    if removal.events and not removal.history:
        body = render_body("delete_releases.json", pipeline=options.pipeline)
        place = join_path(options.history, "_delete_by_query")
        cluster.send("POST", f"{place}?refresh=true&conflicts=proceed", body)
    if removal.history:
        _delete(cluster, join_path(removal.history))
    if removal.stream:
        _delete(cluster, join_path("_data_stream", options.stream))
    if removal.template:
        _delete(cluster, join_path("_index_template", options.stream))
    if cluster.dry_run:
        return
    now = plan_removal(cluster, options)
    if back := replace(now, connectors=tuple(one for one in now.connectors if one not in cluster.left)).lines():
        raise _changed(cluster, removal, f"{back[0]} is there again")


def _remove_models(cluster: Cluster, removal: Removal) -> None:
    for model in removal.models:
        models.remove_model(cluster, model)
    for connector in removal.connectors:
        models.delete_connector(cluster, connector)
    for group in removal.groups:
        models.delete_resource(cluster, "model_groups", group)


def _remove_pipelines(cluster: Cluster, removal: Removal) -> None:
    for name, body in reversed(list(removal.pipelines.items())):  # the graded one last: it tells what is left to do
        actual = fetch_pipeline(cluster, name)
        if actual not in (None, body):
            raise _changed(cluster, removal, f"search pipeline {name} has changed")
        if actual is not None:
            cluster.send("DELETE", join_path("_search", "pipeline", name))


def _delete(cluster: Cluster, place: str) -> None:
    if cluster.read("GET", place, absent={}):
        cluster.send("DELETE", place)


def _changed(cluster: Cluster, removal: Removal, what: str) -> ClusterError:
    return ClusterError(
        f"another command has registered for pipeline {removal.options.pipeline!r} meanwhile: {what}",
        where=cluster.url,
        todo="run this again if that is to go too; darl doctor shows its state",
    )
