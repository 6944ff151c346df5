"""What a search with other features of OpenSearch does through a pipeline: a table of claims, each with its check.

docs/opensearch.md shows the table, and tests/opensearch/test_opensearch_features.py holds each row to it on a node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.cluster.calls import Cluster, join_path

Answer = Mapping[str, Any]
Send = Callable[[Cluster, str, str, dict[str, Any]], Answer]

SIZE, OVERSAMPLE = 5, 3
QUERY = "stolen bike cover"
GROUP, GROUPS, NESTED = "kind", 4, "variants"  # fields of the items: a keyword of 4 values, objects with a colour


def send(cluster: Cluster, index: str, pipeline: str, body: dict[str, Any]) -> Answer:
    """Search as most clients do."""
    return cluster.read("POST", f"{join_path(index, '_search')}?search_pipeline={pipeline}", body)


def _in_template(cluster: Cluster, index: str, pipeline: str, body: dict[str, Any]) -> Answer:
    template = {"source": body | {"search_pipeline": pipeline}}
    return cluster.read("POST", join_path(index, "_search", "template"), template)


def _beside_template(cluster: Cluster, index: str, pipeline: str, body: dict[str, Any]) -> Answer:
    source = json.loads(json.dumps(body).replace(QUERY, "{{words}}"))
    template = {"source": source, "params": {"words": QUERY}}
    return cluster.read("POST", f"{join_path(index, '_search', 'template')}?search_pipeline={pipeline}", template)


def _msearch(cluster: Cluster, index: str, pipeline: str, body: dict[str, Any]) -> Answer:
    from opensearchpy.exceptions import RequestError

    def ask(url: str, *lines: dict[str, Any]) -> Any:
        sent = "".join(json.dumps(line) + "\n" for line in lines)
        return cluster.client.transport.perform_request("POST", f"/_msearch{url}", body=sent)

    refused = 0
    for url, head in ((f"?search_pipeline={pipeline}", {}), ("", {"search_pipeline": pipeline})):
        try:
            ask(url, {"index": index} | head, body)
        except RequestError:
            refused += 1
    answer: Answer = ask("", {"index": index}, body | {"search_pipeline": pipeline})["responses"][0]
    return {**answer, "refused": refused}


def _scroll(cluster: Cluster, index: str, pipeline: str, body: dict[str, Any]) -> Answer:
    first = cluster.read("POST", f"{join_path(index, '_search')}?scroll=1m&search_pipeline={pipeline}", body)
    later = cluster.read("POST", "/_search/scroll", {"scroll": "1m", "scroll_id": first["_scroll_id"]})
    cluster.read("DELETE", "/_search/scroll", {"scroll_id": [first["_scroll_id"]]})
    return first | {"later": later["hits"]["hits"]}


def _point_in_time(cluster: Cluster, index: str, pipeline: str, body: dict[str, Any]) -> Answer:
    pit = cluster.read("POST", f"{join_path(index, '_search', 'point_in_time')}?keep_alive=1m")["pit_id"]
    try:
        return cluster.read("POST", f"/_search?search_pipeline={pipeline}", body | {"pit": {"id": pit}})
    finally:
        cluster.read("DELETE", "/_search/point_in_time", {"pit_id": [pit]})


def _hits(answer: Answer) -> list[Mapping[str, Any]]:
    return list(answer["hits"]["hits"])


def _ids(answer: Answer) -> list[str]:
    return [hit["_id"] for hit in _hits(answer)]


def _same(key: str) -> Callable[[Answer, Answer], bool]:
    """What each hit has under a key is what the first stage gave it."""

    def check(ours: Answer, first: Answer) -> bool:
        before = {hit["_id"]: hit[key] for hit in _hits(first)}
        return all(hit[key] == before[hit["_id"]] for hit in _hits(ours))

    return check


def _first_stage_order(ours: Answer, first: Answer) -> bool:
    return _ids(ours) == _ids(first)[:SIZE]


def _scored_unsorted(ours: Answer, first: Answer) -> bool:
    """Scores are there, and the order is the first stage's."""
    scored = all("darl_score" in hit["_source"] and "previous_score" not in hit["_source"] for hit in _hits(ours))
    return scored and _first_stage_order(ours, first)


@dataclass(frozen=True)
class Feature:
    """A row of the table.

    :param what: the feature, in Markdown.
    :param reranked: whether hits come back with grades and in score order.
    :param seen: what else is to be seen, in Markdown.
    :param body: what the feature adds to the search body.
    :param check: whether an answer bears ``seen`` out, given also the first stage's answer to as many candidates.
    :param hits: how many come back.
    :param send: how the search is sent.
    :param modes: the modes for which the row holds.
    """

    what: str
    reranked: bool
    seen: str
    body: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Answer, Answer], bool] = lambda ours, first: True
    hits: int = SIZE
    send: Send = send
    modes: tuple[str, ...] = ("local", "connector")


FEATURES = (
    Feature(
        "`search_pipeline` in a search template's `source`", False,
        "OpenSearch ignores it there. Send it in the URL, or set `index.search.default_pipeline`",
        check=_first_stage_order, send=_in_template,
    ),
    Feature(
        "a search template with `?search_pipeline=`", True,
        "`params` fill the query and `ext.ml_inference.query_text` alike", send=_beside_template,
    ),
    Feature(
        "`sort` by a field", True, "the field decides which candidates are scored; they come back by `darl_score`",
        {"sort": [{"darl_id": "asc"}]},
        lambda ours, first: set(_ids(ours)) <= set(_ids(first)) and _ids(first) == sorted(_ids(first)),
    ),
    Feature(
        "`explain`", True, "each hit's `_explanation` is of its first-stage score, not of the model's",
        {"explain": True},
        lambda ours, first: _same("_explanation")(ours, first)
        and all(hit["_explanation"]["value"] == hit["_source"]["previous_score"] for hit in _hits(ours)),
    ),
    Feature(
        "`aggs`", True, "over all documents that match, as without the pipeline",
        {"aggs": {"groups": {"terms": {"field": GROUP}}}},
        lambda ours, first: ours["aggregations"] == first["aggregations"],
    ),
    Feature(
        "`size: 0`", True, "nothing is scored", {"size": 0, "aggs": {"groups": {"terms": {"field": GROUP}}}},
        lambda ours, first: ours["aggregations"] == first["aggregations"], hits=0,
    ),
    Feature(
        "a `nested` query with `inner_hits`", True,
        "inner hits come back with their hit; the model reads `darl_text` alone, not the nested objects",
        {"query": {"nested": {"path": NESTED, "query": {"term": {f"{NESTED}.colour": "red"}}, "inner_hits": {}}}},
        _same("inner_hits"),
    ),
    Feature(
        "`collapse`", True, "the first stage picks each group's hit; the groups are then sorted by the model",
        {"collapse": {"field": GROUP}},
        lambda ours, first: sorted(_ids(ours)) == sorted(_ids(first)), hits=GROUPS,
    ),
    Feature(
        "`_source: false`", False, "there is no text to score", {"_source": False}, _first_stage_order,
    ),
    Feature(
        "`_source` without `darl_text`", False, "the same", {"_source": ["name"]}, _first_stage_order,
    ),
    Feature(
        '`_source: ["darl_text"]`, in the cluster', True, "the columns are added to it", {"_source": ["darl_text"]},
        lambda ours, first: all("name" not in hit["_source"] for hit in _hits(ours)), modes=("local",),
    ),
    Feature(
        '`_source: ["darl_text"]`, by connector', False, "the scorer is sent `darl_id` as well: ask for both",
        {"_source": ["darl_text"]}, _first_stage_order, modes=("connector",),
    ),
    Feature(
        "`track_total_hits: false`", False,
        "`rerank` fails after the scoring: the hits have the columns, and first-stage order",
        {"track_total_hits": False}, _scored_unsorted,
    ),
    Feature(
        "`track_total_hits: 5`", True, "the total is a lower bound", {"track_total_hits": 5},
        lambda ours, first: ours["hits"]["total"] == {"value": 5, "relation": "gte"},
    ),
    Feature(
        "`highlight`", True, "highlights come back with their hit", {"highlight": {"fields": {"darl_text": {}}}},
        _same("highlight"),
    ),
    Feature(
        "`_msearch`", True, "with `search_pipeline` in the line of the body; the URL and the header line refuse it",
        check=lambda ours, first: ours["refused"] == 2, send=_msearch,
    ),
    Feature(
        "`scroll`", True,
        "the first page alone; the rest of what was fetched for it is lost, and each later page holds `size` × "
        "`oversample` hits in first-stage order",
        check=lambda ours, first: len(ours["later"]) == SIZE * OVERSAMPLE
        and not any("darl_score" in hit["_source"] for hit in ours["later"])
        and not {hit["_id"] for hit in ours["later"]} & set(_ids(first)),
        send=_scroll,
    ),
    Feature(
        "a point in time", True, "the answer has no `pit_id`: keep the one that you sent",
        check=lambda ours, first: "pit_id" not in ours, send=_point_in_time,
    ),
    Feature(
        "`search_after`", True,
        "the last hit's `sort` values are not the last of the first stage, so the next page repeats or misses hits",
        {"sort": ["_score", {"darl_id": "asc"}], "search_after": [1e9, ""]},
        lambda ours, first: _hits(ours)[-1]["sort"] != _hits(first)[SIZE - 1]["sort"],
    ),
)  # fmt: skip
