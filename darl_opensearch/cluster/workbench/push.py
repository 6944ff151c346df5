"""Writing a query set, judgments, search configurations and experiments to the Workbench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.switching import PipelineHistory
from darl_opensearch.cluster.workbench.api import MOST_QUERIES, Kind, Workbench, check_entity_name, open_workbench
from darl_opensearch.cluster.workbench.configurations import Configuration, list_configurations, try_configuration
from darl_opensearch.cluster.workbench.judged import Ratings, leave_out, make_lists, read_grades
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError, InputError
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import Settings, setting

Experiments = Literal["both", "pointwise", "pairwise", "none"]
PAGE = 1000  # ids of a request
IMPORT_SECONDS = 120.0


class PushOptions(Settings):
    """What ``darl workbench push`` writes.

    :param name: begins the name of everything that is written.
    """

    name: str = setting(
        "", "Name in the Workbench.  [default: the name of the judgments file]", env="DARL_WORKBENCH_NAME"
    )
    size: int = setting(10, "Hits that an experiment looks at.", least=1, most=1000, env="DARL_WORKBENCH_SIZE")
    ratings: Ratings = setting(
        "grade", "Rating of a judgment: its grade's number, of which the Workbench's nDCG makes the gain 2^rating - 1, "
        "or log2(1 + gain), so that it has the bundle's gains.", env="DARL_WORKBENCH_RATINGS",
    )  # fmt: skip
    experiments: Experiments = setting(
        "both", "Experiments to run: a pointwise evaluation of each configuration, a pairwise comparison of the first "
        "stage with each other one, both, or none.", env="DARL_WORKBENCH_EXPERIMENTS",
    )  # fmt: skip
    first_stage_only: bool = setting(
        False, "Push no configuration with a search pipeline.", env="DARL_WORKBENCH_FIRST_STAGE_ONLY"
    )


@dataclass(frozen=True)
class Entity:
    """Something in the Workbench.

    :param created: whether this push created it; False: the same was there.
    """

    kind: Kind
    name: str
    id: str
    created: bool


@dataclass(frozen=True)
class Pushed:
    """Outcome of a push.

    :param queries: in the query set.
    :param left_out: queries that cannot be in it, by reason.
    :param judgments: judgments of its queries.
    :param items: judged items.
    :param items_found: those of them that are in the index.
    :param not_tried: configurations for which no query had hits.
    :param versions_left_out: earlier versions that are not deployed.
    """

    entities: Sequence[Entity]
    queries: int
    left_out: Mapping[str, int]
    judgments: int
    items: int
    items_found: int
    not_tried: Sequence[str] = ()
    versions_left_out: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {**vars(self), "entities": [vars(entity) for entity in self.entities]}


@dataclass
class _Writer:
    """Creates what is not there yet."""

    workbench: Workbench
    entities: list[Entity] = field(default_factory=list)

    def ensure(self, kind: Kind, name: str, body: Mapping[str, Any], same: Sequence[str]) -> str:
        """Use what has the same name and content, or create it.

        :param same: fields that make the content.
        """
        for found in self.workbench.find(kind, name):
            held = self.workbench.get(kind, found["id"]) or {}
            complete = held.get("status", "COMPLETED") == "COMPLETED"
            if complete and all(_normal(held.get(key)) == _normal(body[key]) for key in same):
                self.entities.append(Entity(kind, name, found["id"], created=False))
                return str(found["id"])
        return self.create(kind, name, body)

    def create(self, kind: Kind, name: str, body: Mapping[str, Any]) -> str:
        entity_id = self.workbench.create(kind, body)
        self.entities.append(Entity(kind, name, entity_id, created=True))
        return entity_id


def push(
    cluster: Cluster,
    judgments: Path,
    scale: GradeScale,
    index: str,
    options: PushOptions,
    place: PipelineHistory,
    *,
    body: Path | None = None,
    apply_settings: bool = False,
) -> Pushed:
    """Write a query set, judgments and search configurations, and start experiments.

    What is there with the same name and content is used again; experiments are always new, since each measures the
    present state. In a dry run, the requests are recorded, with stand-ins for ids.

    :param body: JSON file with your own search body.
    :param apply_settings: enable the Workbench if it is disabled.
    :raises InputError: for invalid judgments, or if no item is in the index.
    :raises ClusterError: if the Workbench cannot do it, or a pipeline does not rerank.
    """
    name = options.name or judgments.name.partition(".")[0]
    check_entity_name(name)
    judged = read_grades(judgments, scale)
    workbench = open_workbench(cluster, apply_settings=apply_settings)
    check_index(cluster, index)
    configurations, gone = list_configurations(workbench, place, body=body, first_stage_only=options.first_stage_only)
    for configuration in configurations:
        check_entity_name(f"{name} {configuration.label}")
    kept, left_out = leave_out(judged, [one.shape.mode for one in configurations if one.shape is not None])
    if len(kept) > workbench.most_queries:
        raise InputError(
            f"{len(kept):,} queries, but a query set may have {workbench.most_queries:,} ({MOST_QUERIES})",
            where=str(judgments), todo="raise the setting, or push fewer",
        )  # fmt: skip
    items = sorted({item for grades in kept.values() for item in grades})
    found = count_found(cluster, index, items)
    if not found:
        raise InputError(
            f"none of the {len(items):,} judged items is in index {index}, such as {items[0]!r}", where=str(judgments),
            todo="push the judgments of its items: their item_id is the document's _id",
        )  # fmt: skip
    not_tried = [one.label for one in configurations if not try_configuration(cluster, index, one, kept)]
    writer = _Writer(workbench)
    query_set = _write_query_set(writer, name, judgments, kept)
    lists = _write_judgments(writer, name, judgments, list(make_lists(kept, scale, options.ratings)))
    ids = [
        writer.ensure("search_configurations", full, one.render(full, index), ("index", "query", "searchPipeline"))
        for one in configurations
        for full in (f"{name} {one.label}",)
    ]
    if not cluster.dry_run:
        workbench.wait_for_judgments(lists, IMPORT_SECONDS)
    _write_experiments(writer, name, query_set, lists, list(zip(configurations, ids, strict=True)), options)
    return Pushed(
        writer.entities, len(kept), left_out, sum(map(len, kept.values())), len(items), found, not_tried, gone
    )  # fmt: skip


def check_index(cluster: Cluster, index: str) -> None:
    """Refuse an alias or a pattern: a search configuration names one index.

    :raises ClusterError: if it is no index.
    """
    names = sorted(cluster.read("GET", join_path(index), absent={}))
    if names == [index]:
        return
    if not names:
        raise ClusterError(f"index {index} does not exist", where=cluster.url, todo="fill it with darl index")
    raise ClusterError(
        f"{index} is not an index but stands for {', '.join(names[:5])}", where=cluster.url,
        todo="pass the index: the Workbench does not accept anything else",
    )  # fmt: skip


def count_found(cluster: Cluster, index: str, items: Sequence[str]) -> int:
    """Count the items that are documents of an index, by ``_id``."""
    found: set[str] = set()
    for start in range(0, len(items), PAGE):
        ids = items[start : start + PAGE]
        answer = cluster.search(index, render_body("find_items.json", size=len(ids), ids=ids))
        found |= {str(hit.get("_id")) for hit in answer.get("hits", {}).get("hits", [])}
    return len(found)


def _write_query_set(writer: _Writer, name: str, judgments: Path, kept: Iterable[str]) -> str:
    body = render_body(
        "workbench_query_set.json", name=name, description=_describe(judgments),
        queries=[{"queryText": query} for query in kept],
    )  # fmt: skip
    return writer.ensure("query_sets", name, body, ("querySetQueries",))


def _write_judgments(writer: _Writer, name: str, judgments: Path, lists: Sequence[list[dict[str, Any]]]) -> list[str]:
    ids = []
    for number, ratings in enumerate(lists, 1):
        own = name if len(lists) == 1 else f"{name} {number} of {len(lists)}"
        body = render_body("workbench_judgments.json", name=own, description=_describe(judgments), ratings=ratings)
        ids.append(writer.ensure("judgments", own, body, ("judgmentRatings",)))
    return ids


def _write_experiments(
    writer: _Writer,
    name: str,
    query_set: str,
    lists: Sequence[str],
    configurations: Sequence[tuple[Configuration, str]],
    options: PushOptions,
) -> None:
    def start(label: str, kind: str, ids: Sequence[str], judgments: Sequence[str]) -> None:
        full = f"{name} {label}"
        body = render_body(
            "workbench_experiment.json", name=full, type=kind, query_set_id=query_set, configuration_ids=list(ids),
            judgment_ids=list(judgments), size=options.size,
        )  # fmt: skip
        writer.create("experiments", full, body)

    if options.experiments in ("both", "pointwise"):
        for one, own in configurations:
            start(one.label, "POINTWISE_EVALUATION", [own], lists)
    if options.experiments in ("both", "pairwise"):
        first = configurations[0][1]
        for one, own in configurations[1:]:
            start(f"vs {one.label}", "PAIRWISE_COMPARISON", [first, own], [])


def _describe(judgments: Path) -> str:
    plain = "".join(char for char in judgments.name if char.isalnum() or char in " ._-")
    return f"darl workbench push of {plain}"[:250]


def _normal(value: Any) -> Any:
    """Bring what the Workbench returns and what was sent to one form: order and spelling of ratings may differ."""
    if not isinstance(value, list):
        return value or ""
    if value and "ratings" in value[0]:
        return {one["query"]: {row["docId"]: float(row["rating"]) for row in one["ratings"]} for one in value}
    return sorted(str(one.get("queryText")) for one in value)
