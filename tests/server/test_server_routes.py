"""The routes beside ranking."""

from __future__ import annotations

import json

from starlette.routing import Route

from tests.helpers.server import running

GOOD = {"query": "stolen bicycle", "documents": ["bike theft", "ski week"]}


def test_openapi_has_each_route_and_no_other(client):
    document = client.get("/openapi.json").json()
    served = {
        (route.path, method.lower()) for route in client.app.routes
        if isinstance(route, Route) and not route.path.startswith("/ui")  # pages for people
        for method in route.methods - {"HEAD"}
    }  # fmt: skip
    assert served == {(path, method) for path, methods in document["paths"].items() for method in methods}
    ids = [m["operationId"] for p in document["paths"].values() for m in p.values() if "operationId" in m]
    assert len(ids) == len(set(ids))


def test_openapi_refers_to_what_is_there(client):
    text = client.get("/openapi.json").text
    document = json.loads(text)
    schemas = document["components"]["schemas"]
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas
    answer = client.post("/v1/rerank", json=GOOD | {"return_documents": True}).json()
    assert set(answer) == set(schemas["Ranked"]["properties"])
    result = schemas["Ranked"]["properties"]["results"]["items"]
    assert set(answer["results"][0]) == set(result["properties"])
    assert set(result["required"]) == set(result["properties"]) - {"document"}
    assert set(answer["ood"]) == set(schemas["Ranked"]["properties"]["ood"]["properties"])


def test_openapi_names_every_status_that_is_sent(client):
    responses = client.get("/openapi.json").json()["paths"]["/v1/rerank"]["post"]["responses"]
    assert {"200", "400", "401", "413", "422", "429", "503"} <= set(responses)
    assert "Retry-After" in responses["503"]["headers"] and "Retry-After" in responses["429"]["headers"]


def test_info_says_what_runs_where(client, tiny):
    info = client.get("/info").json()
    assert (info["name"], info["version"], info["identity"]) == ("tiny", "1", tiny.identity)
    assert [g["name"] for g in info["grades"]] == list(tiny.card.scale.names)
    assert info["columns"][0] == "darl_score" and len(info["columns"]) == 6
    assert (info["provider"], info["provider_fallback"], info["precision"]) == ("cpu", None, "fp32")
    assert info["ood_log"]["dropped_queue"] == 0


def test_a_fallback_is_said_in_info_metrics_and_log(tiny, caplog):
    with running(tiny, provider="cuda") as client:
        info, metrics = client.get("/info").json(), client.get("/metrics").text
        if info["provider"] == "cpu":
            assert "CUDA is unavailable, running on the CPU" in info["provider_fallback"]
            assert "darl_provider_fallback 1.0" in metrics
            assert "CUDA is unavailable, running on the CPU" in caplog.text
        assert info["provider_asked"] == "cuda"


def test_metrics_count_requests_pairs_and_drops(tiny):
    with running(tiny) as client:
        client.post("/v1/rerank", json=GOOD)
        client.post("/v1/rerank", content=b"{")
        client.get("/nowhere/" + "x" * 50)
        text = client.get("/metrics").text
    for line in (
        'darl_requests_total{route="/v1/rerank",status="200"} 1.0',
        'darl_requests_total{route="/v1/rerank",status="400"} 1.0',
        'darl_requests_total{route="other",status="404"} 1.0',
        "darl_pairs_total 2.0",
        "darl_ready 1.0",
        "darl_provider_fallback 0.0",
        'darl_model_info{name="tiny",provider="cpu",version="1"} 1.0',
        'darl_ood_log_events_total{event="dropped_queue"} 0.0',
        'darl_ood_log_events_total{event="offered"} 1.0',
    ):
        assert line in text, line


def test_two_services_do_not_share_their_measures(tiny):
    with running(tiny) as one, running(tiny) as two:
        one.post("/v1/rerank", json=GOOD)
        assert "darl_pairs_total 2.0" in one.get("/metrics").text
        assert "darl_pairs_total 0.0" in two.get("/metrics").text


def test_leaving_closes_the_ood_log(tiny):
    with running(tiny) as client:
        log = client.log
        assert not log.closed
    assert log.closed
