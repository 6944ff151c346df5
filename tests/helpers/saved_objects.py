"""Saved objects, read: the fields that they name, and the search that Dashboards would make of a visualization."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def state_of(one: Mapping[str, Any]) -> dict[str, Any]:
    """A visualization's type, parameters and aggregations."""
    return json.loads(one["attributes"]["visState"])


def query_of(one: Mapping[str, Any]) -> str:
    """The query of a visualization or search, such as ``kind : request and reranked : false``."""
    return json.loads(one["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])["query"]["query"]


def conditions_of(one: Mapping[str, Any]) -> dict[str, str]:
    """Field to value of each part of its query."""
    return dict(part.split(" : ") for part in query_of(one).split(" and ") if part)


def fields_of(one: Mapping[str, Any]) -> Iterator[str]:
    """Every field that a saved object names."""
    yield from conditions_of(one) if "kibanaSavedObjectMeta" in one["attributes"] and one["type"] != "dashboard" else ()
    yield from one["attributes"].get("columns", ())
    yield from (field for field, _ in one["attributes"].get("sort", ()))
    if one["type"] == "visualization":
        yield from (agg["params"]["field"] for agg in state_of(one)["aggs"] if "field" in agg["params"])
    if "timeFieldName" in one["attributes"]:
        yield one["attributes"]["timeFieldName"]


def search_of(one: Mapping[str, Any]) -> dict[str, Any]:
    """The search of a visualization: its metrics inside its buckets, in their order."""
    aggs = state_of(one)["aggs"]
    metrics = {agg["id"]: {agg["type"]: {"field": agg["params"]["field"]}} for agg in aggs if _is_counting(agg)}
    inner: dict[str, Any] = metrics
    for agg in reversed([agg for agg in aggs if agg["schema"] != "metric"]):
        params = agg["params"]
        body: dict[str, Any] = {"field": params["field"]}
        if agg["type"] == "date_histogram":
            body |= {"calendar_interval": "1d", "min_doc_count": params["min_doc_count"]}
        else:
            order = {"1": "1" if "1" in metrics else "_count"}.get(params["orderBy"], params["orderBy"])
            body |= {"size": params["size"], "order": {order: params["order"]}}
        inner = {agg["id"]: {agg["type"]: body, "aggs": {**metrics, **inner}}}
    filters = [{"term": {field: value}} for field, value in conditions_of(one).items()]
    return {"size": 0, "query": {"bool": {"filter": filters}}, "aggs": inner}


def _is_counting(agg: Mapping[str, Any]) -> bool:
    return agg["schema"] == "metric" and agg["type"] != "count"
