"""Requests to the Workbench: what it must provide, finding, reading and creating what it holds.

Source: REST handlers and settings of https://github.com/opensearch-project/search-relevance. Every ``PUT`` creates
something with a new id, whatever its name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.compatibility import REQUIRED, supports
from darl_opensearch.cluster.preflight import find_differing, find_missing_parts, read_nodes, read_settings, settle
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError, UsageError

Kind = Literal["query_sets", "search_configurations", "judgments", "experiments"]

PLUGINS = {"opensearch-search-relevance": "the Search Relevance Workbench"}
ENABLED = "plugins.search_relevance.workbench_enabled"
MOST_QUERIES = "plugins.search_relevance.query_set.maximum"
MOST = 1000  # entities of one name, or of all names, that are looked at
MOST_NAME_CHARS = 50
FORBIDDEN = '"\\<>'  # in names and in queries
_IDS: Mapping[Kind, str] = {
    "query_sets": "query_set_id",
    "search_configurations": "search_configuration_id",
    "judgments": "judgment_id",
    "experiments": "experiment_id",
}


@dataclass(frozen=True)
class Workbench:
    """The Workbench of a cluster; make it with :func:`open_workbench`.

    :param version: major and minor number of the cluster.
    :param most_queries: queries that a query set may have.
    :param answers: whether it can be asked: not in a dry run that would enable it first.
    """

    cluster: Cluster
    version: tuple[int, int]
    most_queries: int
    answers: bool = True

    @property
    def runs_pipelines(self) -> bool:
        """Whether its experiments can search through our pipelines."""
        return supports(self.version, "workbench pipelines")

    def find(self, kind: Kind, name: str | None = None) -> list[dict[str, Any]]:
        """List what there is of a kind: ``id``, ``name``, ``status`` and ``type``, as far as it has them.

        :param name: exact name; None: any.
        """
        if not self.answers:
            return []
        query: dict[str, Any] = {"match_all": {}} if name is None else {"term": {"name": name}}
        body = render_body("workbench_find.json", size=MOST, query=query)
        answer = self.cluster.read("POST", _path(kind, "_search"), body, absent={})
        return [{"id": hit.get("_id"), **(hit.get("_source") or {})} for hit in _hits(answer)]

    def get(self, kind: Kind, entity_id: str) -> dict[str, Any] | None:
        """Read one by its id; None if there is none."""
        if not self.answers:
            return None
        hits = _hits(self.cluster.read("GET", _path(kind, entity_id), absent={}))
        return {"id": hits[0].get("_id"), **(hits[0].get("_source") or {})} if hits else None

    def create(self, kind: Kind, body: Mapping[str, Any]) -> str:
        """Create one.

        :return: its id; in a dry run a stand-in.
        :raises ClusterError: if the answer has no id.
        """
        name = _IDS[kind]
        answer = self.cluster.send("PUT", _path(kind), body, pretend={name: f"<{name} of {body['name']}>"})
        if not isinstance(answer.get(name), str):
            raise ClusterError(
                f"the answer to PUT {_path(kind)} has no {name}",
                where=self.cluster.url,
                todo="check the version of the plugin",
            )
        return str(answer[name])

    def wait_for_judgments(self, ids: Sequence[str], seconds: float) -> None:
        """Wait until imported judgments are complete.

        :raises ClusterError: if an import fails or takes longer.
        """
        deadline = time.monotonic() + seconds
        for entity_id in ids:
            while (found := self.get("judgments", entity_id) or {}).get("status", "PROCESSING") == "PROCESSING":
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"judgments {entity_id} are still being imported after {seconds:g} s", where=self.cluster.url,
                        todo="check the cluster's load, then run this again: complete judgments are used again",
                    )  # fmt: skip
                time.sleep(0.2)
            if found["status"] != "COMPLETED":
                why = (found.get("metadata") or {}).get("error") or "no reason given"
                raise ClusterError(
                    f"the import of judgments {entity_id} ended with status {found['status']} ({why})",
                    where=self.cluster.url,
                    todo="check the node's log",
                )


def open_workbench(cluster: Cluster, *, apply_settings: bool = False) -> Workbench:
    """Check version, plugin and settings.

    :param apply_settings: enable the Workbench persistently if it is disabled.
    :raises ClusterError: if something is missing, with what to do.
    """
    identity = cluster.identify()
    if not supports(identity.version, "workbench"):
        raise ClusterError(
            f"this is OpenSearch {identity.number}; the Search Relevance Workbench can be searched since "
            f"{REQUIRED['workbench'].number}",
            where=cluster.url,
            todo="upgrade it",
        )
    for error in find_missing_parts(read_nodes(cluster).values(), cluster.url, plugins=PLUGINS, modules=()):
        raise error
    settings = read_settings(cluster)
    problems = find_differing(settings, [(ENABLED, True, "it answers no request otherwise")])
    settle(cluster, problems, apply_settings=apply_settings)
    most = int(settings.get(MOST_QUERIES, 1000))
    return Workbench(cluster, identity.version, most, answers=not (problems and cluster.dry_run))


def check_entity_name(name: str) -> None:
    """Refuse a name that the Workbench would refuse.

    :raises UsageError: if it is empty, too long, or has a forbidden character.
    """
    if not name.strip() or len(name) > MOST_NAME_CHARS or set(name) & set(FORBIDDEN):
        raise UsageError(
            f"the Workbench does not accept the name {name!r}",
            todo=f"choose --name so that it has at most {MOST_NAME_CHARS} characters and none of {' '.join(FORBIDDEN)}",
        )


def _path(*parts: str) -> str:
    return join_path("_plugins", "_search_relevance", *parts)


def _hits(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    hits = (answer.get("hits") or {}).get("hits") or []
    return [hit for hit in hits if isinstance(hit, dict)]
