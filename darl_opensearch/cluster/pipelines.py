"""Search pipelines: what is sent for a model, and what a pipeline that is there says about itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from darl_opensearch.cluster.calls import Cluster, is_ours, join_path
from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.config_files import OMIT, render_body
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.scores import Columns
from darl_opensearch.settings import Settings, setting
from darl_opensearch.text import TEXT_FIELD

REQUEST = "$._request."
EXT = REQUEST + "ext.ml_inference."
PLAIN = "-plain"
HYBRID = "-hybrid"
DEFAULT_MAX_K: Mapping[Mode, int] = {"local": 50, "connector": 200}
MAX_RESULT_WINDOW = 10_000  # OpenSearch's own default
Change = Literal["created", "updated", "unchanged"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,120}")
_CAP = re.compile(r"int cap = (\d+);")
_ROOM = re.compile(r"int room = (\d+) - f;")
_QUERY_PATH = re.compile(r"[A-Za-z_][\w-]*(\[\d+\])*(\.[A-Za-z_][\w-]*(\[\d+\])*)*")


class PipelineOptions(Settings):
    """How a pipeline treats a search."""

    name: str = setting(
        "darl", "name of the search pipeline; NAME-plain is its variant without grades, NAME-hybrid the one for hybrid "
        "queries", env="DARL_PIPELINE",
        flag="--pipeline",
    )  # fmt: skip
    max_k: int | None = setting(
        None, "maximum pairs scored per search, unless more hits are requested.  [default: 50 local, 200 connector]",
        least=1, most=10_000, env="DARL_MAX_K",
    )  # fmt: skip
    oversample: int = setting(5, "candidates fetched per requested hit", least=1, most=1000, env="DARL_OVERSAMPLE")
    max_result_window: int = setting(
        MAX_RESULT_WINDOW, "index.max_result_window of the searched index, which no search may exceed; of several "
        "indices the smallest", least=1, env="DARL_MAX_RESULT_WINDOW",
    )  # fmt: skip
    query_path: str | None = setting(
        None,
        "where the search body has the query's text, such as query.match.darl_text.query, if not in "
        "ext.ml_inference.query_text", env="DARL_QUERY_PATH",
    )  # fmt: skip
    with_query_id: bool = setting(
        False, "pass ext.ml_inference.query_id and .slice to the scorer; searches without them are then not reranked",
        env="DARL_WITH_QUERY_ID",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse options with which the pipeline would never rerank."""
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"invalid pipeline name {self.name!r}", todo="use a-z, 0-9, '.', '_', '-'")
        if self.query_path and not _QUERY_PATH.fullmatch(self.query_path):
            raise UsageError(
                f"--query-path {self.query_path!r} is not a path into a search body",
                todo="write it like query.match.darl_text.query",
            )


class Describes(Protocol):
    """What pipelines say of a bundle; its card has it."""

    @property
    def name(self) -> str:
        """Name of the bundle."""

    @property
    def version(self) -> str:
        """Version of the bundle."""

    @property
    def columns(self) -> Columns:
        """Layout of its graph's output."""

    @property
    def text_field(self) -> str:
        """Field of an item's text that a scorer reads."""


def render_pipelines(card: Describes, mode: Mode, model_id: str, options: PipelineOptions) -> dict[str, dict[str, Any]]:
    """Render the pipelines of a model.

    :return: name to body: the one with grades and OOD columns, the plain one, and the one for hybrid queries.
    """
    if options.with_query_id and mode == "local":
        raise UsageError("an in-cluster model uses no query id", todo="omit --with-query-id; the client logs it")
    common = {
        "description": f"DaRL {card.name} {card.version} ({mode})",
        "oversample": options.oversample,
        "max_k": options.max_k if options.max_k is not None else DEFAULT_MAX_K[mode],
        "max_result_window": options.max_result_window,
        "model_id": model_id,
    }
    text_field = TEXT_FIELD if mode == "local" else card.text_field  # only a scorer cuts chunks
    graded = common | {
        "query_path": REQUEST + options.query_path if options.query_path else EXT + "query_text",
        "output_map": {
            name: f"$.inference_results[*].output[*].data[{column}]"
            for name, column in card.columns.hit_fields().items()
        },
    }
    if mode == "connector":
        passed = {"query_id_path": EXT + "query_id", "slice_path": EXT + "slice"}
        graded |= passed if options.with_query_id else dict.fromkeys(passed, OMIT)
        graded |= {"text_field": text_field}
    plain = common | {"description": f"{common['description']}, order only", "text_field": text_field}
    bodies = {
        options.name: render_body(f"pipeline_{mode}.json", **graded),
        options.name + PLAIN: render_body("pipeline_plain.json", **plain),
    }
    return add_hybrid(options.name, bodies)


def add_hybrid(name: str, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add the pipeline for hybrid queries, which is the graded one behind a normalization processor.

    Without one, a hybrid query's results hold rows that only delimit its sub-queries; they would be scored as hits.

    :param bodies: by name, including the graded one.
    """
    graded = dict(bodies[name])
    graded["description"] = f"{graded['description']}, hybrid queries"
    return {key: dict(body) for key, body in bodies.items()} | {
        name + HYBRID: graded | render_body("pipeline_hybrid.json")
    }


def list_names(name: str) -> tuple[str, ...]:
    """List a pipeline and its variants."""
    return name, name + PLAIN, name + HYBRID


def read_options(name: str, bodies: Mapping[str, Mapping[str, Any]], mode: Mode) -> PipelineOptions:
    """Read a pipeline's options, the inverse of :func:`render_pipelines`.

    :param bodies: by name, including the graded one.
    :return: the options; ``max_k`` None for the mode's default, since another mode has its own.
    """
    body = bodies[name]
    shape = PipelineShape.of(name, body, where=f"search pipeline {name!r}")
    path_ = REQUEST + shape.query_path
    return PipelineOptions(
        name=name,
        max_k=None if shape.max_k == DEFAULT_MAX_K[mode] else shape.max_k,
        oversample=int(shape.oversample),
        max_result_window=shape.max_result_window,
        query_path=None if path_ == EXT + "query_text" else shape.query_path,
        with_query_id=shape.needs_ids,
    )


def check_ours(cluster: Cluster, options: PipelineOptions) -> None:
    """Refuse to change pipelines that darl did not create.

    :raises ClusterError: if a pipeline of that name is someone else's.
    """
    for name in list_names(options.name):
        existing = fetch_pipeline(cluster, name)
        if existing is not None and not is_ours(existing):
            raise ClusterError(
                f"search pipeline {name!r} exists and was not created by darl",
                where=cluster.url,
                todo="choose another name with --pipeline",
            )


def put_pipelines(cluster: Cluster, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, Change]:
    """Write the pipelines that differ from what is there."""
    changes: dict[str, Change] = {}
    for name, body in bodies.items():
        existing = fetch_pipeline(cluster, name)
        changes[name] = "created" if existing is None else "unchanged" if existing == body else "updated"
        if changes[name] != "unchanged":
            cluster.send("PUT", join_path("_search", "pipeline", name), body)
    return changes


def fetch_pipeline(cluster: Cluster, name: str) -> dict[str, Any] | None:
    """Read a pipeline's body; None if there is none."""
    body = cluster.read("GET", join_path("_search", "pipeline", name), absent={}).get(name)
    return body if isinstance(body, dict) else None


def fetch_pipelines(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Read every pipeline there is."""
    answer = cluster.read("GET", "/_search/pipeline", absent={})
    return {name: body for name, body in answer.items() if isinstance(body, dict)}


def fetch_max_result_window(cluster: Cluster, index: str) -> int:
    """Read ``index.max_result_window`` of an index; of an alias or pattern, the smallest of its indices.

    :raises ClusterError: if there is no such index.
    """
    name = "index.max_result_window"
    place = join_path(index, "_settings", name) + "?include_defaults=true&flat_settings=true"
    found = [
        int(values[name])
        for one in cluster.read("GET", place).values()
        for values in (one.get("defaults", {}), one.get("settings", {}))
        if name in values
    ]
    if not found:
        raise ClusterError(f"index {index} does not exist", where=cluster.url, todo="check --index")
    return min(found)


def list_models_in(body: Mapping[str, Any]) -> set[str]:
    """List the models that a pipeline's body names at any depth, whoever wrote it."""
    ids: set[str] = set()
    rest: list[Any] = [body]
    while rest:
        node = rest.pop()
        if isinstance(node, Mapping):
            ids |= {str(value) for key, value in node.items() if key == "model_id"}
            rest.extend(node.values())
        elif isinstance(node, list):
            rest.extend(node)
    return ids


def is_scored(source: Mapping[str, Any], fields: Iterable[str]) -> bool:
    """Whether a hit has the columns that a pipeline writes.

    :param source: its ``_source``.
    """
    return all(isinstance(source.get(name), int | float) for name in fields)


def remove_pipelines(cluster: Cluster, options: PipelineOptions) -> None:
    """Delete a pipeline and its variants."""
    for name in list_names(options.name):
        if fetch_pipeline(cluster, name) is not None:
            cluster.send("DELETE", join_path("_search", "pipeline", name))


@dataclass(frozen=True)
class PipelineShape:
    """What a client must know about a pipeline, read from its definition.

    :param query_path: path of the query's text in the search body.
    :param needs_ids: whether requests without ``query_id`` and ``slice`` are not reranked.
    :param phases: processors between query and fetch, such as the one that a hybrid query requires.
    :param max_k: pairs scored per search, unless more hits are requested; None if it does not say.
    :param max_result_window: largest ``from + size`` of what it fetches; OpenSearch's default if it does not say.
    """

    mode: Mode
    model_id: str
    query_path: str
    needs_ids: bool
    oversample: float
    fields: frozenset[str]
    max_k: int | None
    max_result_window: int
    phases: tuple[Mapping[str, Any], ...] = ()

    @property
    def normalizes(self) -> bool:
        """Whether it combines the results of a hybrid query's sub-queries."""
        return any(name in ("normalization-processor", "score-ranker-processor") for one in self.phases for name in one)

    @classmethod
    def of(cls, name: str, body: Mapping[str, Any], *, where: str) -> PipelineShape:
        """Read a pipeline's definition.

        :param name: for messages.
        :param where: the cluster, for messages.
        :raises ClusterError: if it does not write grades.
        """
        scoring = [step["ml_inference"] for step in body.get("response_processors", ()) if "ml_inference" in step]
        inputs = (scoring[0].get("input_map") or [{}])[0] if scoring else {}
        query_path = str(inputs.get("query_text") or inputs.get("query") or "")
        if not query_path.startswith(REQUEST):
            hint = f"; {name.removesuffix(PLAIN)!r} does" if name.endswith(PLAIN) else ""
            raise ClusterError(
                f"search pipeline {name!r} does not write grades{hint}",
                where=where,
                todo="create one with darl register",
            )
        before = body.get("request_processors", ())
        factor = [step["oversample"]["sample_factor"] for step in before if "oversample" in step]
        script = " ".join(str(step["script"].get("source")) for step in before if "script" in step)
        cap, room = _CAP.search(script), _ROOM.search(script)
        return cls(
            mode="local" if str(scoring[0].get("function_name", "")).lower() == "text_similarity" else "connector",
            model_id=str(scoring[0].get("model_id")),
            query_path=query_path.removeprefix(REQUEST),
            needs_ids="query_id" in inputs,
            oversample=float(factor[0]) if factor else 1.0,
            fields=frozenset(name for entry in scoring[0].get("output_map") or () for name in entry),
            max_k=int(cap[1]) if cap else None,
            max_result_window=int(room[1]) if room else MAX_RESULT_WINDOW,
            phases=tuple(body.get("phase_results_processors", ())),
        )
