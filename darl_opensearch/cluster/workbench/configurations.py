"""Search configurations: bodies in which the Workbench puts each query's text, and whether they are reranked.

The Workbench renders a body that contains ``{{`` with Mustache, which escapes the text as in a JSON string (since 3.8).
In any other body it replaces ``%SearchText%`` by the text as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.compatibility import REQUIRED
from darl_opensearch.cluster.history import History
from darl_opensearch.cluster.pipelines import PipelineShape, fetch_pipeline, is_scored
from darl_opensearch.cluster.switching import PipelineHistory
from darl_opensearch.cluster.versions import list_versions
from darl_opensearch.cluster.workbench.api import Workbench
from darl_opensearch.config_files import render_body
from darl_opensearch.connect import NO_PIPELINE
from darl_opensearch.errors import ClusterError, InputError
from darl_opensearch.io.jsonl import parse_object
from darl_opensearch.io.reading import reading

MUSTACHE, PERCENT = "{{queryText}}", "%SearchText%"
TRIED = 5  # queries that are tried until one has hits


@dataclass(frozen=True)
class Configuration:
    """A search configuration.

    :param label: its part of the name.
    :param search: the search body, with a placeholder for the query's text.
    :param pipeline: named search pipeline, ``_none`` for no pipeline, or ``""`` if the body holds its own.
    :param shape: of the pipeline; None for the first stage.
    """

    label: str
    description: str
    search: str
    pipeline: str
    shape: PipelineShape | None = None

    def render(self, name: str, index: str) -> dict[str, Any]:
        """Render the request body that creates it."""
        return render_body(
            "workbench_configuration.json", name=name, description=self.description, index=index, search=self.search,
            pipeline=self.pipeline,
        )  # fmt: skip


def list_configurations(
    workbench: Workbench, place: PipelineHistory, *, body: Path | None = None, first_stage_only: bool = False
) -> tuple[list[Configuration], list[str]]:
    """List the first stage, a pipeline, and each earlier version that is deployed.

    The pipeline is named, so that its configuration follows releases; an earlier version's configuration holds the
    pipeline that the release history has of it.

    :param body: JSON file with your own search body; by default a match on ``darl_text``.
    :return: the configurations, and the labels of earlier versions that cannot be searched any more.
    :raises ClusterError: if the Workbench cannot search through pipelines, or the pipeline does not exist.
    """
    search, placeholder = _read_body(workbench, body)
    first = Configuration("first stage", "without a search pipeline", _dump(search), NO_PIPELINE["search_pipeline"])
    if first_stage_only:
        return [first], []
    cluster, name = workbench.cluster, place.pipeline
    if not workbench.runs_pipelines:
        raise ClusterError(
            f"before OpenSearch {REQUIRED['workbench pipelines'].number} the Workbench wraps queries in base64, and "
            "ml_inference cannot read them: nothing would be reranked",
            where=cluster.url, todo="upgrade it, or push the first stage alone with --first-stage-only",
        )  # fmt: skip
    definition = fetch_pipeline(cluster, name)
    if definition is None:
        raise ClusterError(
            f"search pipeline {name!r} does not exist", where=cluster.url, todo="create it with darl register"
        )
    ext = render_body("search_ext.json", query_text=placeholder, query_id="", slice="")
    extended = search | {"ext": {**search.get("ext", {}), **ext}}
    shape = PipelineShape.of(name, definition, where=cluster.url)
    found = [first, Configuration(name, f"through search pipeline {name}", _dump(extended), name, shape)]
    gone = []
    bodies = _read_bodies(workbench, place)
    for version in list_versions(cluster, name, history=place.history):
        served = version.served
        if version.state == "serving":
            continue
        if version.state != "deployed" or served.model_id not in bodies:
            gone.append(served.label)
            continue
        inline = bodies[served.model_id]
        found.append(
            Configuration(
                served.label, f"version {served.label} ({served.mode}), by its pipeline in {place.history}",
                _dump(extended | {"search_pipeline": inline}), "", PipelineShape.of(name, inline, where=cluster.url),
            )
        )  # fmt: skip
    return found, gone


def fill_search(search: str, query: str) -> dict[str, Any]:
    """Put a query's text into a body as the Workbench does.

    :raises ValueError: if the result is not JSON, as with a quote in place of ``%SearchText%``.
    """
    if "{{" in search:
        search = search.replace(MUSTACHE, json.dumps(query, ensure_ascii=False)[1:-1])
    else:
        search = search.replace(PERCENT, query)
    return dict(json.loads(search))


def try_configuration(cluster: Cluster, index: str, configuration: Configuration, queries: Iterable[str]) -> bool:
    """Search with a configuration, for the first query that has hits.

    :return: whether a query had hits.
    :raises ClusterError: if its pipeline did not rerank them.
    """
    for query, _ in zip(queries, range(TRIED), strict=False):
        request = fill_search(configuration.search, query)
        path = join_path(index, "_search")
        if configuration.pipeline:
            path += f"?search_pipeline={configuration.pipeline}"
        sources = [hit.get("_source") or {} for hit in cluster.read("POST", path, request)["hits"]["hits"]]
        if not sources:
            continue
        if configuration.shape is not None and not _is_reranked(sources, configuration.shape):
            raise ClusterError(
                f"a search by configuration {configuration.label!r} is not reranked (query {query!r}, index {index})",
                where=cluster.url,
                todo="check the node's log and the scorer, and that every hit has darl_text",
            )
        return True
    return False


def _is_reranked(sources: list[Mapping[str, Any]], shape: PipelineShape) -> bool:
    if not all(is_scored(source, shape.fields) for source in sources):
        return False
    scores = [source["darl_score"] for source in sources]
    return all(a >= b for a, b in zip(scores, scores[1:], strict=False))


def _read_body(workbench: Workbench, path: Path | None) -> tuple[dict[str, Any], str]:
    """Read the search body and its placeholder."""
    usual = MUSTACHE if workbench.runs_pipelines else PERCENT
    if path is None:
        body, text = render_body("search.json", size=10, query=usual), usual
    else:
        with reading(path):
            text = path.read_text(encoding="utf-8")
        body = parse_object(text.encode(), str(path), todo="write the body of a search")
    held = [placeholder for placeholder in (MUSTACHE, PERCENT) if placeholder in text]
    if len(held) != 1 or (held[0] == MUSTACHE and not workbench.runs_pipelines) or (held == [PERCENT] and "{{" in text):
        raise InputError(
            f"the search body has {' and '.join(held) or 'no placeholder'} where the query's text goes",
            where=str(path),
            todo=f"write {usual} there, and no other placeholder",
        )
    for name, why in (
        ("_source", "the pipeline reads darl_text"),
        ("search_pipeline", "darl chooses the pipeline"),
        ("from", "an experiment looks at the first hits"),
    ):
        if name in body:
            raise InputError(f"the search body has {name}", where=str(path), todo=f"omit it: {why}")
    # The experiment sets the size. Without the total, the rerank processor fails.
    return {key: value for key, value in body.items() if key not in ("size", "track_total_hits")}, held[0]


def _read_bodies(workbench: Workbench, place: PipelineHistory) -> dict[str, Mapping[str, Any]]:
    """Read the newest pipeline of each version from the release history, by model id."""
    bodies: dict[str, Mapping[str, Any]] = {}
    for event in History(workbench.cluster, place.pipeline, place.history).events():
        for served, held in ((event.came_from, event.before), (event.to, event.after)):
            if served is not None and place.pipeline in held:
                bodies[served.model_id] = held[place.pipeline]
    return bodies


def _dump(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False)
