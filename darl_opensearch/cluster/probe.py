"""Probing a version before it serves: does it answer, and does a search through its pipeline rank correctly?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import guards
from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.pipelines import PipelineOptions, PipelineShape, is_scored, render_pipelines
from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.cluster.verify import CONNECTOR_BOUND, LOCAL_BOUND, PROBES, ask_when_ready
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError
from darl_opensearch.text import TEXT_FIELD, cut_to_tokens

HITS = 5


class ProbeFailed(ClusterError):
    """The new version does not answer correctly."""


@dataclass(frozen=True)
class ProbeSearch:
    """Outcome of a trial search through a pipeline that is not in place yet.

    :param hits: number of hits compared with the bundle's own scores.
    :param deviation: largest difference of a score or grade probability.
    """

    query: str
    hits: int
    deviation: float


def probe_search(cluster: Cluster, bundle: Bundle, mode: Mode, model_id: str, index: str) -> ProbeSearch:
    """Search real items through the new pipeline, sent inline with the request: nothing is written.

    The query's text is sent in ``ext.ml_inference`` whatever ``--query-path`` says, since the search bodies of the
    pipeline's users are unknown.

    :param index: filled by ``darl index``.
    :raises ProbeFailed: if the hits are not scored, not sorted, or scored differently from the bundle.
    :raises ClusterError: if there is nothing to search.
    """
    from darl_opensearch.scoring import Scorer

    options = PipelineOptions(max_k=HITS)
    body = dict(render_pipelines(bundle.card, mode, model_id, options)[options.name])
    query = cut_to_tokens(PROBES[0][0], bundle.tokenizer, bundle.card.query_cap)  # only the scorer cuts queries
    guarded = guards.guard_for_local(query) if mode == "local" else guards.guard_for_connector(query)
    field = TEXT_FIELD if mode == "local" else bundle.card.text_field
    request = render_body("search_probe.json", size=HITS, pipeline=body, query_text=guarded, text_field=field)
    answer = cluster.read("POST", join_path(index, "_search"), request)
    sources = [hit.get("_source") or {} for hit in answer.get("hits", {}).get("hits", [])]
    if not sources:
        raise ClusterError(
            f"index {index} holds no items with {field} to search", where=cluster.url,
            todo="fill it with darl index, by this bundle",
        )  # fmt: skip
    names = list(bundle.card.columns.hit_fields())
    if not all(is_scored(source, names) for source in sources):
        raise _failed(cluster, index, "a search through the new pipeline is not reranked")
    rows = np.array([[source[name] for name in names] for source in sources], dtype=np.float64)
    with Scorer.open(bundle) as scorer:
        expected = scorer.score(query, [str(source[field]) for source in sources]).data.astype(np.float64)
    columns = list(bundle.card.columns.hit_fields().values())
    probable = slice(0, 1 + bundle.card.columns.k)
    worst = float(np.abs(rows - expected[:, columns])[:, probable].max())
    bound = LOCAL_BOUND if mode == "local" else CONNECTOR_BOUND
    if not worst <= bound:
        raise _failed(cluster, index, f"the new pipeline's scores differ from the bundle's (by up to {worst:.2g})")
    scores = rows[:, names.index("darl_score")]
    if not (np.diff(scores) <= bound).all():
        raise _failed(cluster, index, "the new pipeline's hits are not sorted by score")
    return ProbeSearch(query, len(sources), worst)


def check_answers(
    cluster: Cluster, mode: Mode, model_id: str, body: Mapping[str, Any], *, name: str, ready_within: float
) -> None:
    """Check that a model returns what its pipeline reads, without its bundle.

    :param name: of the pipeline, for messages.
    :param ready_within: see :func:`ask_when_ready`.
    :raises ProbeFailed: if it does not answer, or its grades are not probabilities.
    """
    width = len(PipelineShape.of(name, body, where=cluster.url).fields)
    query, documents = PROBES[0]
    try:
        rows = ask_when_ready(cluster, mode, model_id, query, documents, ready_within=ready_within)
    except ClusterError as err:
        raise ProbeFailed(err.what, where=err.where, todo=err.todo) from err
    right = rows.shape == (len(documents), width) and bool(np.isfinite(rows).all())
    if not right or not np.allclose(rows[:, 1 : width - 2].sum(1), 1.0, atol=1e-3):
        raise ProbeFailed(
            f"model {model_id} does not return {width - 3} grades per item", where=cluster.url,
            todo="check that its scorer serves the bundle that the model was registered from",
        )  # fmt: skip


def _failed(cluster: Cluster, index: str, what: str) -> ProbeFailed:
    return ProbeFailed(
        f"{what} (index {index})",
        where=cluster.url,
        todo="check the node's log, and that the index was filled with darl index",
    )
