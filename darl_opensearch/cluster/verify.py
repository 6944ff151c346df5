"""Comparing a deployed model's answers with its bundle's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.models import POLL_SECONDS
from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError
from darl_opensearch.text import cut_to_tokens

# Short and long, plain and awkward: whatever a tokenizer or an escape could get wrong shows here.
PROBES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a question in plain words", ("an answer in plain words", "something else", "x")),
    (
        'quotes " backslash \\ and a\nline break',
        ('he said "yes" \\ and left', "accents éàü, 中文, and {braces}"),
    ),
    ("a long text", (" ".join(f"word{i % 50}" for i in range(400)), "short")),
)

READY_SECONDS = 30.0  # from a deployment to an answer: ML Commons reports "deployed" slightly too early
LOCAL_BOUND = 1e-4
# A scorer may run the quantised graph, on a GPU, and prints six decimals. Another model is off by far more.
CONNECTOR_BOUND = 0.05


def verify(cluster: Cluster, bundle: Bundle, mode: Mode, model_id: str, *, ready_within: float = 0.0) -> float:
    """Score a few pairs with the deployed model and with the bundle's own graph.

    :param ready_within: see :func:`ask_when_ready`.
    :return: the largest difference of a score or grade probability.
    :raises ClusterError: if the model does not answer, or answers differently.
    """
    from darl_opensearch.scoring import Scorer

    columns, steps = bundle.card.columns, len(bundle.calibration()) + 1
    bound = LOCAL_BOUND if mode == "local" else CONNECTOR_BOUND
    worst = 0.0
    card, tokenizer = bundle.card, bundle.tokenizer
    with Scorer.open(bundle) as scorer:
        for probe, texts in PROBES:
            query = cut_to_tokens(probe, tokenizer, card.query_cap)  # beyond it, the cluster would cut the item
            cut = bundle.renderer.first if mode == "local" else bundle.renderer.cut  # as darl index does
            documents = [cut(text) for text in texts]
            expected = scorer.score(query, documents).data.astype(np.float64)
            actual = ask_when_ready(cluster, mode, model_id, query, documents, ready_within=ready_within)
            if actual.shape != expected.shape:
                raise _differs(
                    cluster,
                    mode,
                    model_id,
                    f"returns shape {list(actual.shape)}, and the bundle {list(expected.shape)}",
                )
            difference = np.abs(actual - expected)
            probable = difference[:, : 1 + columns.k].max()
            # The OOD score is a step function over the graph's table: at an edge, float noise moves it by one.
            step = difference[:, columns.ood_score].max() - 2.0 / steps
            far = (
                difference[:, columns.ood_distance] / np.maximum(1.0, np.abs(expected[:, columns.ood_distance]))
            ).max()
            worst = max(worst, float(probable))
            if not max(probable, step, far) <= bound:
                raise _differs(
                    cluster,
                    mode,
                    model_id,
                    f"answers differently from the bundle (by {max(probable, step, far):.2g})",
                )
    return worst


def ask_model(cluster: Cluster, mode: Mode, model_id: str, query: str, documents: Sequence[str]) -> NDArray[np.float64]:
    """Score the items of one query in the cluster: ``[n, 3 + k]``."""
    body = render_body(f"predict_{mode}.json", query=query, documents=list(documents))
    if mode == "local":
        place = join_path("_plugins", "_ml", "_predict", "text_similarity", model_id)
    else:
        place = join_path("_plugins", "_ml", "models", model_id, "_predict")
    return parse_rows(cluster.read("POST", place, body), where=cluster.url)


def ask_when_ready(
    cluster: Cluster, mode: Mode, model_id: str, query: str, documents: Sequence[str], *, ready_within: float
) -> NDArray[np.float64]:
    """Call :func:`ask_model`, and call it again while the model is not ready.

    :param ready_within: maximum seconds: ``READY_SECONDS`` after a deployment, 0 if the model was deployed before.
    """
    deadline = time.monotonic() + ready_within
    while True:
        try:
            return ask_model(cluster, mode, model_id, query, documents)
        except ClusterError as err:
            if "Model not ready yet" not in err.what or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def parse_rows(answer: Mapping[str, Any], *, where: str) -> NDArray[np.float64]:
    """Read the columns of a prediction: ``[n, width]``.

    :param answer: of ML Commons: one result per document in the cluster, one for all through a connector.
    :param where: the cluster, for messages.
    :raises ClusterError: if there are none.
    """
    try:
        rows = [tensor["data"] for result in answer["inference_results"] for tensor in result["output"]]
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    except (KeyError, TypeError, ValueError) as err:
        raise ClusterError(
            "the model's answer does not hold rows of numbers",
            where=where,
            todo="check that the scorer is darl serve",
        ) from err


def _differs(cluster: Cluster, mode: Mode, model_id: str, what: str) -> ClusterError:
    todo = "start darl serve on this bundle" if mode == "connector" else "register it again with --replace"
    return ClusterError(f"model {model_id} {what}", where=cluster.url, todo=todo)
