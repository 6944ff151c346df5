"""Wrong requests: one body shape, one line, what to do; never a traceback, never a 500."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.server import ServerConfig
from darl_opensearch.server.errors import ApiError
from darl_opensearch.server.limits import Admission, RateLimit
from tests.helpers.server import call, running

GOOD = {"query": "stolen bicycle", "documents": ["bike theft", "ski week"]}


def refused(answer, status, *parts):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json" and answer.headers["X-Request-Id"]
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"status", "type", "message"} and error["status"] == status
    assert error["message"].endswith(".") and "\n" not in error["message"] and "Traceback" not in error["message"]
    for part in parts:
        assert part in error["message"]
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"query": NaN}', "NaN is not JSON"),
        (b'{"query": "\xff"}', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "not JSON"),
        (b"[]", "a list, not an object"),
        (b"null", "not an object"),
    ],
)
def test_what_is_no_json_object(client, body, said):
    refused(client.post("/v1/rerank", content=body), 400, said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"query": None}, "query: is missing or null"),
        ({"query": 7}, "query: is a number"),
        ({"query": ["a"]}, "query: is a list"),
        ({"query": " \n"}, "query: is empty"),
        ({"documents": None}, "documents: is missing or null"),
        ({"documents": "a"}, "documents: is text, not a list"),
        ({"documents": ["a", 1]}, "documents[1]: is a number"),
        ({"documents": ["a", {"title": "b"}]}, "documents[1]: is an object without a text"),
        ({"documents": [None]}, "documents[0]: is missing or null"),
        ({"texts": ["a"]}, "both documents and texts"),
        ({"top_n": 0}, "top_n: is 0"),
        ({"top_n": "3"}, "top_n: is text"),
        ({"top_n": True}, "top_n: is True"),
        ({"top_n": 1.5}, "top_n: is 1.5"),
        (
            {"min_grade": 3},
            "min_grade: is 3, not a grade of this model. Use one of 0 (irrelevant), 1 (related), 2 (fits)",
        ),
        ({"min_grade": "best"}, "min_grade: is 'best'"),
        ({"min_grade": True}, "min_grade: is True"),
        ({"min_grade": 0.5}, "min_grade: is 0.5"),
        ({"min_score": 1.1}, "min_score: is 1.1, not a number from 0 to 1"),
        ({"min_score": "0.5"}, "min_score: is '0.5'"),
        ({"drop_ood": "yes"}, "drop_ood: is 'yes', not true or false"),
        ({"return_documents": "yes"}, "return_documents: is text"),
        ({"query_id": {}}, "query_id: is an object"),
        ({"query_id": "x" * 2000}, "query_id: has 2000 characters"),
        ({"slice": True}, "slice: is true or false"),
        ({"doc_ids": ["a"]}, "doc_ids: has 1 entries for 2 documents"),
        ({"doc_ids": "[a"}, "doc_ids: is a string that holds no JSON list"),
        ({"doc_ids": {"a": 1}}, "doc_ids: is an object"),
        ({"doc_ids": ["a", []]}, "doc_ids[1]: is a list"),
    ],
)
def test_a_wrong_field_is_named(client, fields, said):
    refused(client.post("/v1/rerank", json=GOOD | fields), 422, said)


def test_neither_documents_nor_texts(client):
    refused(client.post("/rerank", json={"query": "a"}), 422, "neither documents nor texts")


def test_unknown_fields_of_other_services_are_left_alone(client):
    foreign = {"rank_fields": ["text"], "raw_scores": False, "max_tokens_per_doc": 4096, "model": None}
    answer = client.post("/v2/rerank", json=GOOD | foreign)
    assert answer.status_code == 200


@pytest.mark.parametrize(("fields", "message"), [
    ({"rank_fields": ["title", "text"]}, "rank_fields: is not supported: a document is ranked by its text"),
    ({"rank_fields": "title"}, "rank_fields: is not supported"),
    ({"raw_scores": True}, "raw_scores: is not supported: scores are expected gains"),
])  # fmt: skip
def test_fields_of_other_services_that_would_change_the_numbers(client, fields, message):
    for path in ("/v1/rerank", "/rerank"):
        refused(client.post(path, json=GOOD | fields), 422, message)
    refused(client.post("/rerank", json={"query": "a", "texts": ["b"]} | fields), 422, message)


FIELDS = [
    "query", "documents", "texts", "top_n", "return_documents", "query_id", "doc_ids", "slice", "x",
    "rank_fields", "min_grade", "min_score", "drop_ood",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
def test_no_json_at_all_makes_a_500(client, body):
    answer = client.post("/v1/rerank", content=json.dumps(body))
    assert answer.status_code in (200, 400, 422)
    if answer.status_code != 200:
        refused(answer, answer.status_code)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_no_bytes_at_all_make_a_500(client, body):
    refused(client.post("/v1/rerank", content=body), 400)


def test_paths_and_methods_that_are_not_served(client):
    refused(client.get("/v3/rerank"), 404, "/openapi.json")
    refused(client.get("/v1/rerank"), 405, "/v1/rerank does not allow GET")
    refused(client.post("/health"), 405)
    refused(client.request("OPTIONS", "/v1/rerank"), 405)


def test_too_many_documents_and_too_large_a_body(tiny):
    with running(tiny, max_documents=3, max_body_bytes=300) as client:
        assert client.post("/v1/rerank", json=GOOD).status_code == 200
        refused(client.post("/v1/rerank", json=GOOD | {"documents": ["a"] * 4}), 413, "4 entries, more than 3")
        refused(
            client.post("/v1/rerank", json=GOOD | {"query": "a" * 300}),
            413,
            "more than 300 bytes",
            "--max-body-bytes",
        )

        def unmeasured():  # chunked: no Content-Length to believe
            for _ in range(20):
                yield b" " * 20

        refused(client.post("/v1/rerank", content=unmeasured()), 413)
        lying = client.post("/v1/rerank", content=b" " * 400, headers={"Content-Length": "10"})
        refused(lying, 413)


def test_ten_thousand_documents_are_too_many_by_default(client):
    documents = ["bike theft"] * 10_000
    refused(client.post("/v1/rerank", json=GOOD | {"documents": documents}), 413, "10000 entries, more than 1000")


def test_compressed_bodies_are_not_read(client):
    refused(client.post("/v1/rerank", json=GOOD, headers={"Content-Encoding": "gzip"}), 400, "compressed")


@pytest.mark.parametrize("path", ["/v1/rerank", "/info", "/metrics", "/openapi.json", "/nowhere"])
def test_without_the_key_only_the_probes_answer(tiny, tmp_path, path):
    file = tmp_path / "keys"
    file.write_text("old-key\n\nnew-key\n")
    with running(tiny, api_key="third", api_key_file=file) as client:
        method = "POST" if path == "/v1/rerank" else "GET"

        def call(**headers):
            return client.request(method, path, json=GOOD, headers=headers)

        refused(call(), 401, "no API key was sent")
        assert call().headers["WWW-Authenticate"] == "Bearer"
        for wrong in ("Bearer nope", "Bearer ", "Bearer old-key-", "Basic old-key", "old-key"):
            refused(call(Authorization=wrong), 401, "the API key is wrong")
        refused(call(Authorization="Bearer caf\xe9".encode("latin-1")), 401)
        for key in ("old-key", "new-key", "third"):
            assert call(Authorization=f"bearer {key}").status_code == (404 if path == "/nowhere" else 200)
        assert client.get("/health").status_code == client.get("/ready").status_code == 200


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_key_file_without_keys_is_refused(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError, match="the file holds no secret"):
        ServerConfig(api_key_file=tmp_path / "keys").keys()
    with pytest.raises(InputError, match="cannot be read"):
        ServerConfig(api_key_file=tmp_path / "absent").keys()
    with pytest.raises(InputError, match="not allowed in a header"):
        ServerConfig(api_key="schlüssel").keys()
    with pytest.raises(UsageError, match="contradict"):
        ServerConfig(no_ood_log=True, ood_log=tmp_path / "x")


def test_the_rate_limit_is_each_callers_own(tiny):
    with running(tiny, rate_limit=2) as client:
        assert [client.post("/v1/rerank", json=GOOD).status_code for _ in range(2)] == [200, 200]
        refused(client.post("/v1/rerank", json=GOOD), 429, "more than 2 requests a minute")
        assert client.get("/health").status_code == client.get("/info").status_code == 200


def test_the_rate_limit_refills():
    limit = RateLimit(60)
    for _ in range(60):
        limit.take("a", now=0)
    with pytest.raises(ApiError) as caught:
        limit.take("a", now=0.5)
    assert caught.value.headers["Retry-After"] == "1"
    limit.take("b", now=0.5)
    limit.take("a", now=1.1)
    RateLimit(0).take("a")


class Gate:
    """A session that waits."""

    def __init__(self, real):
        self.real, self.open, self.waiting = real, threading.Event(), threading.Semaphore(0)

    def run(self, outputs, inputs):
        self.waiting.release()
        self.open.wait(10)
        return self.real.run(outputs, inputs)


def gated(client):
    import dataclasses

    scorer = client.service.scorer()
    gate = Gate(scorer._graph.session)
    scorer._graph = dataclasses.replace(scorer._graph, session=gate)
    return gate


def test_a_full_house_is_answered_503_at_once(tiny):
    with running(tiny, max_concurrent=1, max_queue=1) as client:
        gate, answers = gated(client), []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/v1/rerank", json=GOOD))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while client.service.admission.inside < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        started = time.monotonic()
        refused(client.post("/v1/rerank", json=GOOD), 503, "2 requests are being scored or wait", "--max-queue")
        assert time.monotonic() - started < 1
        gate.open.set()
        for thread in threads:
            thread.join()
        assert [a.status_code for a in answers] == [200, 200]
        assert client.service.admission.inside == 0


def test_a_request_that_would_wait_for_too_long_is_answered_503_at_once():
    admission = Admission(100, max_wait=1.0)
    with admission.wait_for(10**9):  # nothing is known yet of what a request costs
        pass
    for _ in range(200):
        admission.observe(1000, 0.5)
    with admission.wait_for(10**9):  # idle: any request is taken
        with pytest.raises(ApiError) as caught, admission.wait_for(1):
            pass
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "60")
    with admission.wait_for(1000), admission.wait_for(900), admission.wait_for(500):  # .95 s is not too long
        with pytest.raises(ApiError, match="take another 1.2 s"), admission.wait_for(1):
            pass
    for _ in range(200):  # twenty times as fast from now on
        admission.observe(1000, 0.025)
    with admission.wait_for(20_000), admission.wait_for(1):
        pass
    patient = Admission(100)
    patient.observe(1, 100.0)
    with patient.wait_for(10**9), patient.wait_for(1):  # without a budget all wait
        pass


def test_predicted_waiting_refuses_and_an_idle_scorer_takes_all(tiny):
    with running(tiny, max_concurrent=1) as client:
        assert client.post("/v1/rerank", json=GOOD).status_code == 200
        gate, answers = gated(client), []
        for _ in range(200):
            client.service.admission.observe(10, 1.0)
        first = threading.Thread(target=lambda: answers.append(client.post("/v1/rerank", json=GOOD)))
        first.start()
        assert gate.waiting.acquire(timeout=10)
        answer = client.post("/v1/rerank", json=GOOD)
        refused(answer, 503, "the requests before this one take another", "--max-wait-ms")
        assert int(answer.headers["Retry-After"]) > 1
        gate.open.set()
        first.join()
        assert [a.status_code for a in answers] == [200]
        assert client.post("/v1/rerank", json=GOOD).status_code == 200
        assert client.service.admission.inside == 0


def test_a_caller_that_goes_away_is_scored_no_further(tiny):
    with running(tiny, threads=1, token_budget=1) as client:
        gate, messages = gated(client), []
        body = json.dumps(GOOD | {"documents": ["a"] * 50}).encode()

        async def go_away():
            gone = asyncio.Event()
            request = asyncio.create_task(call(client.app, body, messages.append, gone=gone))
            assert await asyncio.to_thread(gate.waiting.acquire, timeout=10)
            gone.set()
            while client.service.metrics.abandoned._value.get() == 0 and not request.done():
                gate.open.set()
                await asyncio.sleep(0.01)
            await request

        asyncio.run(go_away())
        assert messages[0]["status"] == 503  # which nobody reads
        scored = 1
        while gate.waiting.acquire(blocking=False):
            scored += 1
        assert scored < 10
        assert "darl_requests_abandoned_total 1.0" in client.get("/metrics").text
        assert client.log.offered == [] and client.service.admission.inside == 0


def test_the_ood_log_comes_after_the_answer(tiny):
    with running(tiny) as client:
        events = []
        client.log.offer = lambda request: events.append("logged")
        asyncio.run(call(client.app, json.dumps(GOOD).encode(), lambda message: events.append(message["type"])))
        assert events == ["http.response.start", "http.response.body", "logged"]


def test_a_passed_deadline_is_a_503(tiny):
    with running(tiny, threads=1, token_budget=1, deadline_ms=50) as client:
        assert client.post("/v1/rerank", json=GOOD).status_code == 200
        gate = gated(client)
        threading.Timer(0.2, gate.open.set).start()
        refused(client.post("/v1/rerank", json=GOOD | {"documents": ["a"] * 10}), 503, "deadline", "--deadline-ms")
        assert "darl_deadlines_passed_total 1.0" in client.get("/metrics").text


def test_a_body_that_does_not_arrive_is_given_up(tiny):
    from darl_opensearch.server.limits import read_body

    class Slow:
        headers: dict[str, str] = {}

        async def stream(self):
            yield b"{"
            await asyncio.sleep(60)

    with pytest.raises(ApiError) as caught:
        asyncio.run(read_body(Slow(), most=100, seconds=0.05))
    assert caught.value.status == 408


def test_before_the_model_is_loaded(tiny, monkeypatch):
    release = threading.Event()
    from darl_opensearch.server import service as module

    real = module.Scorer.open

    def slow(*args, **kwargs):
        release.wait(10)
        return real(*args, **kwargs)

    monkeypatch.setattr(module.Scorer, "open", slow)
    with running(tiny, ready=False) as client:
        assert client.get("/health").status_code == 200
        refused(client.get("/ready"), 503, "is loading")
        refused(client.post("/v1/rerank", json=GOOD), 503, "is loading")
        assert client.get("/info").json()["ready"] is False
        release.set()
        deadline = time.monotonic() + 10
        while client.get("/ready").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.post("/v1/rerank", json=GOOD).status_code == 200


def test_a_fault_of_ours_is_a_500_without_its_inside(tiny, caplog):
    with running(tiny) as client:
        scorer = client.service.scorer()
        scorer.run = lambda *_, **__: 1 / 0
        with caplog.at_level(logging.ERROR):
            refused(client.post("/v1/rerank", json=GOOD), 500, "The server's log says why")
        assert "ZeroDivisionError" in caplog.text and "ZeroDivisionError" not in client.get("/info").text


def test_a_trailing_slash_is_not_redirected_to_the_callers_host(client):
    answer = client.post("/v1/rerank/", json={}, headers={"Host": "elsewhere.example"}, follow_redirects=False)
    assert answer.status_code == 422 and "location" not in answer.headers
    plain, slashed = (client.post(path, json=GOOD).json()["results"] for path in ("/v1/rerank", "/v1/rerank/"))
    assert slashed == plain
    assert client.get("/health/").status_code == 200 and client.get("//").status_code == 404


def test_a_trailing_slash_needs_the_key_and_counts_towards_the_limit(tiny):
    with running(tiny, api_key="one", rate_limit=1) as client:
        refused(client.post("/v1/rerank/", json=GOOD), 401)
        key = {"Authorization": "Bearer one"}
        assert client.post("/v1/rerank/", json=GOOD, headers=key).status_code == 200
        refused(client.post("/v1/rerank/", json=GOOD, headers=key), 429)


def test_a_key_file_that_changes_is_read_again(tiny, tmp_path, caplog):
    file = tmp_path / "keys"
    file.write_text("old-key\n")

    def status(client, key):
        return client.get("/info", headers={"Authorization": f"Bearer {key}"}).status_code

    with running(tiny, api_key_file=file) as client:
        assert (status(client, "old-key"), status(client, "new-key")) == (200, 401)
        file.write_text("new-key\nold-key\n")
        assert (status(client, "old-key"), status(client, "new-key")) == (200, 200)
        (tmp_path / "next").write_text("new-key\n")
        (tmp_path / "next").replace(file)
        assert (status(client, "old-key"), status(client, "new-key")) == (401, 200)
        assert "-key" not in caplog.text
        for spoil in (lambda: file.write_text(""), lambda: file.write_text("schlüssel"), file.unlink):
            caplog.clear()
            spoil()
            assert (status(client, "new-key"), status(client, "none")) == (200, 401)
            assert "the old ones stay valid" in caplog.text and "schlüssel" not in caplog.text
        file.write_text("third-key")
        assert (status(client, "new-key"), status(client, "third-key")) == (401, 200)
