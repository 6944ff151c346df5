"""Requests as a scorer would log them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

from darl_opensearch.ood.record import LogPolicy, RankedRequest, expand_request, to_ms
from darl_opensearch.ood.spool import Row
from darl_opensearch.scores import Scores

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = LogPolicy(model="tiny", version="1", alpha=0.05, sample_rate=0.5)


def scores_of(ood_scores: Iterable[float], *, alpha: float = 0.05) -> Scores:
    """Scores of a model with three grades, given how strange each item is."""
    ood = np.asarray(list(ood_scores), dtype=np.float32)
    data = np.zeros((len(ood), 6), dtype=np.float32)
    data[:, 0] = np.linspace(0.9, 0.1, len(ood))
    data[:, 1:4] = (0.2, 0.3, 0.5)
    data[:, 4] = ood
    data[:, 5] = 2 * ood
    return Scores(data, alpha)


def request_of(
    number: int, ood_scores: Iterable[float], *, query: str | None = None, prefix: str = "r", **values
) -> RankedRequest:
    ood_scores = list(ood_scores)
    defaults = {
        "request_id": f"{prefix}{number}",
        "timestamp": START + timedelta(seconds=number),
        "query": f"query {number}" if query is None else query,
        "doc_ids": [f"item-{i}" for i in range(len(ood_scores))],
        "documents": [f"text of item {i}" for i in range(len(ood_scores))],
        "scores": scores_of(ood_scores),
        "latency_ms": 12.5,
        "route": "python",
    }
    return RankedRequest(**(defaults | values))


def traffic(count: int, *, candidates: int = 10, seed: int = 0, prefix: str = "r") -> Iterator[RankedRequest]:
    """Requests in three slices; "cyber" is strange."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        slice_name = ("pet", "cyber", None)[number % 3]
        ood = rng.random(candidates)
        if slice_name == "cyber":
            ood = np.sqrt(np.sqrt(ood))
        yield request_of(number, ood, query=f"query {number % (count // 4 + 1)}", slice=slice_name, prefix=prefix)


def rows_of(requests: Iterable[RankedRequest], policy: LogPolicy = POLICY) -> list[Row]:
    return [
        Row(r.record_id, to_ms(r.timestamp), r.kind, json.dumps(r.to_json()))
        for request in requests
        for r in expand_request(request, policy)
    ]
