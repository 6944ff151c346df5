"""A stand-in for a cluster with the Search Relevance Workbench, which is not on the test node.

Requests are checked, and answers shaped, as the plugin's source and documentation have them
(github.com/opensearch-project/search-relevance: Rest{Put,Get,Search}*Action, TextValidationUtil,
ImportJudgmentsProcessor; release 3.8). A request that the plugin would not take is answered as the plugin answers it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.http import Quiet

BASE = "/_plugins/_search_relevance/"
INDICES = {
    "query_sets": "search-relevance-queryset",
    "search_configurations": "search-relevance-search-config",
    "judgments": "search-relevance-judgment",
    "experiments": ".plugins-search-relevance-experiment",
}
ANSWERS = {
    "query_sets": ("query_set_id", "query_set_result"),
    "search_configurations": ("search_configuration_id", "search_configuration_result"),
    "judgments": ("judgment_id", None),
    "experiments": ("experiment_id", "experiment_result"),
}


class Refused(Exception):
    """What the plugin answers to a request that it does not take."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def valid_text(what: str, value: object, most: int, *, reserved: str = "") -> None:
    if not isinstance(value, str) or not value:
        raise Refused(400, f"Invalid {what}: Text cannot be empty")
    if len(value) > most:
        raise Refused(400, f"Invalid {what}: Text exceeds maximum length of {most} characters")
    if re.search(r'["\\<>]', value):
        raise Refused(400, f"Invalid {what}: Text contains invalid characters")
    if set(value) & set(reserved):
        raise Refused(400, f"Invalid {what}: Text contains reserved characters")


@dataclass
class FakeWorkbench:
    """The cluster: its settings, index and pipelines, and what was created.

    :param searches: answers a search body with hits.
    """

    version: str = "3.8.0"
    enabled: bool = True
    plugins: tuple[str, ...] = ("opensearch-search-relevance",)
    most_queries: int = 1000
    indices: dict[str, set[str]] = field(default_factory=lambda: {"items": {"p1", "p2", "p3"}})
    aliases: dict[str, list[str]] = field(default_factory=dict)
    pipelines: dict[str, Any] = field(default_factory=dict)
    releases: list[dict[str, Any]] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    searches: Callable[[dict[str, Any], str], list[dict[str, Any]]] = lambda body, pipeline: []
    failing_imports: str = ""
    pending: int = 0  # times that an import is still being processed when asked for
    created: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in INDICES})
    writes: list[tuple[str, str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)

    def handler(self) -> type[Quiet]:
        fake = self

        class Handler(Quiet):
            def respond(self) -> None:
                raw = self.body()
                place, _, parameters = self.path.partition("?")
                try:
                    answer = fake.answer(self.command, place, parameters, json.loads(raw) if raw else {})
                except Refused as err:
                    self.answer(err.status, err.text.encode(), "text/plain; charset=UTF-8")
                    return
                if answer is None:
                    self.answer(404, b'{"error": {"type": "x", "reason": "not found"}, "status": 404}')
                else:
                    self.answer(200, json.dumps(answer).encode())

            do_GET = do_POST = do_PUT = do_DELETE = respond

        return Handler

    def answer(self, method: str, place: str, parameters: str, body: dict[str, Any]) -> Any:
        if place.startswith(BASE):
            if not self.enabled:
                raise Refused(403, "Search Relevance Workbench is disabled")
            kind, _, rest = place[len(BASE) :].partition("/")
            if method == "PUT":
                assert kind in INDICES and not rest, place
                self.writes.append((method, place, body))
                return self.put(kind, body)
            return self.read(method, kind, rest, body)
        return self.cluster(method, place, parameters, body)

    def cluster(self, method: str, place: str, parameters: str, body: dict[str, Any]) -> Any:
        if place == "/":
            return {"version": {"distribution": "opensearch", "number": self.version}, "cluster_name": "c"}
        if place == "/_nodes/plugins":
            return {"nodes": {"n": {"name": "n1", "plugins": [{"name": name} for name in self.plugins]}}}
        if place == "/_cluster/settings":
            if method == "PUT":
                self.writes.append((method, place, body))
                assert body["persistent"].keys() == {"plugins.search_relevance.workbench_enabled"}
                self.enabled = True
            return {
                "persistent": {},
                "transient": {},
                "defaults": {
                    "plugins.search_relevance.workbench_enabled": str(self.enabled).lower(),
                    "plugins.search_relevance.query_set.maximum": str(self.most_queries),
                },
            }
        if place.startswith("/_search/pipeline/"):
            name = place.rpartition("/")[2]
            return {name: self.pipelines[name]} if name in self.pipelines else None
        if place == "/darl-releases/_search":
            return {"hits": {"hits": [{"_source": event} for event in reversed(self.releases)]}}
        if place == "/_plugins/_ml/models/_search":
            hits = [{"_id": one, "_source": {"name": one, "model_state": state}} for one, state in self.models.items()]
            return {"hits": {"hits": hits}}
        index, _, action = place[1:].partition("/")
        if not action and index in self.indices:
            return {index: {}}
        if not action and index in self.aliases:
            return {name: {} for name in self.aliases[index]}
        if action == "_search" and index in self.indices:
            if "ids" in body["query"]:
                found = self.indices[index] & set(body["query"]["ids"]["values"])
                return {"hits": {"hits": [{"_id": one} for one in sorted(found)]}}
            return {"hits": {"hits": self.searches(body, parameters)}}
        return None

    def put(self, kind: str, body: dict[str, Any]) -> Any:
        getattr(self, f"check_{kind}")(body)
        own = f"id-{next(self._ids)}"
        document = {"id": own, "timestamp": "2026-01-01T00:00:00.000Z", **body}
        if kind == "judgments":
            status = "ERROR" if self.failing_imports else "COMPLETED"
            document |= {"status": status, "metadata": {"error": self.failing_imports}}
            document["judgmentRatings"] = [] if self.failing_imports else body["judgmentRatings"]
        if kind == "experiments":
            document |= {"status": "PROCESSING", "results": []}
        self.created[kind][own] = document
        name, result = ANSWERS[kind]
        return {name: own} | ({result: "CREATED"} if result else {})

    def read(self, method: str, kind: str, rest: str, body: dict[str, Any]) -> Any:
        held = self.created[kind]
        if rest == "_search":
            assert method in ("GET", "POST")
            [query] = body["query"].items()
            wanted = None if query[0] == "match_all" else query[1]["name"]
            found = [one for one in held.values() if wanted in (None, one.get("name"))]
            fields = body["_source"]
        else:
            assert method == "GET"
            found, fields = [held[rest]] if rest in held else [], None
        sources = [{key: value for key, value in one.items() if fields is None or key in fields} for one in found]
        if rest in held and self.pending:
            self.pending -= 1
            sources[0] = sources[0] | {"status": "PROCESSING", "judgmentRatings": []}
        hits = [
            {"_index": INDICES[kind], "_id": one["id"], "_score": 1.0, "_source": source}
            for one, source in zip(found, sources, strict=True)
        ]
        total = {"value": len(hits), "relation": "eq"}
        return {"took": 1, "timed_out": False, "hits": {"total": total, "max_score": 1.0, "hits": hits}}

    def check_query_sets(self, body: dict[str, Any]) -> None:
        assert body.keys() == {"name", "description", "sampling", "querySetQueries"}
        valid_text("name", body["name"], 50)
        valid_text("description", body["description"], 250)
        assert body["sampling"] == "manual"
        if len(body["querySetQueries"]) > self.most_queries:
            raise Refused(403, "Query Set Limit Exceeded.")
        assert body["querySetQueries"]
        for query in body["querySetQueries"]:
            valid_text("queryText", query["queryText"], 2000, reserved="\r\n#:")

    def check_search_configurations(self, body: dict[str, Any]) -> None:
        assert body.keys() == {"name", "description", "index", "query", "searchPipeline"}
        valid_text("name", body["name"], 50)
        valid_text("description", body["description"], 250)
        if body["index"] not in self.indices:
            raise Refused(400, f"Index [{body['index']}] does not exist in the cluster")
        assert isinstance(body["query"], str)
        assert isinstance(json.loads(body["query"]), dict)
        assert isinstance(body["searchPipeline"], str)

    def check_judgments(self, body: dict[str, Any]) -> None:
        assert body.keys() == {"name", "description", "type", "judgmentRatings"}
        valid_text("name", body["name"], 50)
        valid_text("description", body["description"], 250)
        assert body["type"] == "IMPORT_JUDGMENT"
        for entry in body["judgmentRatings"]:
            assert entry.keys() == {"query", "ratings"}
            for rating in entry["ratings"]:
                assert rating.keys() == {"docId", "rating"}
                assert isinstance(rating["docId"], str) and rating["docId"]
                assert isinstance(rating["rating"], str)  # JudgmentRatingsMapper casts it
                float(rating["rating"])

    def check_experiments(self, body: dict[str, Any]) -> None:
        assert body.keys() == {"name", "type", "querySetId", "searchConfigurationList", "judgmentList", "size"}
        assert isinstance(body["size"], int)
        needed = {"POINTWISE_EVALUATION": 1, "PAIRWISE_COMPARISON": 2}[body["type"]]
        if len(set(body["searchConfigurationList"])) != needed or len(body["searchConfigurationList"]) != needed:
            raise Refused(400, f"{body['type']} requires exactly {needed} search configuration(s)")
        for one in body["searchConfigurationList"]:
            assert one in self.created["search_configurations"]
        assert body["querySetId"] in self.created["query_sets"]
        for one in body["judgmentList"]:
            assert self.created["judgments"][one]["status"] == "COMPLETED"
        assert bool(body["judgmentList"]) == (needed == 1)
