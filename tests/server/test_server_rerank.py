"""The contract of ``/v1/rerank`` and kin."""

from __future__ import annotations

import itertools
import json
import random
import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darl_opensearch.scoring import Scorer
from darl_opensearch.server.app import RERANK_PATHS
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE

TEXTS = [TEMPLATE.render(item) for item in ITEMS]
NUMBER = re.compile(r"(?<=[:\[,])-?\d[\d.eE+-]*")


def ask(client, query=QUERIES[0], documents=TEXTS, path="/v1/rerank", **fields):
    answer = client.post(path, json={"query": query, "documents": documents} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", RERANK_PATHS)
def test_the_answer_says_what_the_model_says(client, tiny, path):
    answer = ask(client, path=path)
    with Scorer.open(tiny) as scorer:
        scores = scorer.score(QUERIES[0], TEXTS)
    assert [r["index"] for r in answer["results"]] == scores.order().tolist()
    assert answer["model"] == "tiny"
    for result in answer["results"]:
        i = result["index"]
        assert result["relevance_score"] == pytest.approx(scores.score[i], abs=1e-6)
        assert result["grade"] == scores.grade[i]
        assert result["grade_name"] == tiny.card.scale.names[result["grade"]]
        assert result["grade_probs"] == pytest.approx(scores.grade_probs[i].tolist(), abs=1e-6)
        assert result["ood_score"] == pytest.approx(scores.ood_score[i], abs=1e-6)
        assert result["ood_distance"] == pytest.approx(scores.ood_distance[i], abs=1e-6)
        assert result["is_ood"] == scores.is_ood[i]
        assert "document" not in result
    assert answer["ood"]["candidates"] == len(TEXTS)
    assert answer["ood"]["max_ood_score"] == max(r["ood_score"] for r in answer["results"])
    assert answer["usage"]["pairs"] == len(TEXTS) and answer["usage"]["total_tokens"] > 5 * len(TEXTS)


def test_tensors_follow_the_documents_whatever_top_n_and_order(client):
    rows = {}
    for order in itertools.islice(itertools.permutations(range(len(TEXTS))), 0, 720, 97):
        texts = [TEXTS[i] for i in order]
        answer = ask(client, documents=texts, top_n=2)
        assert len(answer["results"]) == 2
        tensors = json.loads(answer["tensors"])
        assert len(tensors) == len(TEXTS)
        for text, tensor in zip(texts, tensors, strict=True):
            assert tensor | {"data": None} == {
                "name": "similarity", "data_type": "FLOAT32", "shape": [6], "data": None,
            }  # fmt: skip
            np.testing.assert_allclose(rows.setdefault(text, tensor["data"]), tensor["data"], atol=1.1e-6)
        best = max(range(len(texts)), key=lambda i: tensors[i]["data"][0])
        assert answer["results"][0]["index"] == best


def test_thresholds_leave_results_out_and_tensors_whole(client, tiny):
    every = ask(client)
    grades = sorted({result["grade"] for result in every["results"]})
    middle = sorted(result["relevance_score"] for result in every["results"])[3]
    for fields, reaches in (
        ({"min_grade": grades[-1]}, lambda r: r["grade"] >= grades[-1]),
        ({"min_grade": tiny.card.scale.names[grades[-1]]}, lambda r: r["grade"] >= grades[-1]),
        ({"min_grade": 0, "min_score": 0, "drop_ood": False}, lambda r: True),
        ({"min_score": middle}, lambda r: r["relevance_score"] >= middle),
        ({"min_score": 1}, lambda r: False),
        ({"drop_ood": True}, lambda r: not r["is_ood"]),
    ):
        answer = ask(client, **fields)
        assert answer["results"] == [result for result in every["results"] if reaches(result)]
        assert answer["dropped"] == len(TEXTS) - len(answer["results"])
        assert answer["tensors"] == every["tensors"] and answer["ood"] == every["ood"]
        tei = client.post("/rerank", json={"query": QUERIES[0], "texts": TEXTS} | fields).json()
        assert [row["index"] for row in tei] == [result["index"] for result in answer["results"]]
    assert len(ask(client, min_score=middle, top_n=2)["results"]) == 2
    assert ask(client, min_score=middle, top_n=2)["dropped"] == 3  # not those beyond top_n


@pytest.mark.parametrize("top_n", [None, 1, 3, 6, 1000, 2.0])
def test_all_indices_are_there_unless_top_n_cuts(client, top_n):
    indices = [r["index"] for r in ask(client, top_n=top_n)["results"]]
    assert len(indices) == len(set(indices)) == min(top_n or 6, 6)


def test_documents_come_back_when_asked_for(client):
    documents = [TEXTS[0], {"text": TEXTS[1], "id": 7}]
    for result in ask(client, documents=documents, return_documents=True)["results"]:
        assert result["document"] == {"text": TEXTS[result["index"]]}


def test_no_documents_have_no_results(client):
    answer = ask(client, documents=[])
    assert (answer["results"], answer["tensors"]) == ([], "[]")
    assert answer["ood"]["ood_share"] == 0 and answer["ood"]["max_ood_score"] is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.text(min_size=1, max_size=60).filter(str.strip),
    documents=st.lists(st.text(max_size=200), min_size=1, max_size=8),
)
def test_any_text_is_ranked_in_ascii_with_short_numbers(client, query, documents):
    # As other clients write JSON: unescaped UTF-8.
    body = json.dumps({"query": query, "documents": documents}, ensure_ascii=False).encode()
    answer = client.post("/v1/rerank", content=body)
    assert answer.status_code == 200, answer.text
    assert answer.content.isascii()
    data = answer.json()
    assert sorted(r["index"] for r in data["results"]) == list(range(len(documents)))
    for text in (answer.text.replace(json.dumps(data["id"]), ""), data["tensors"]):
        for number in NUMBER.findall(text):
            assert re.fullmatch(r"-?\d+(\.\d{1,6})?", number) and len(number) <= 18
    for result in re.findall(r'"relevance_score":([^,}]*)', answer.text):
        assert re.fullmatch(r"[01]\.\d{1,6}", result)
    for index in re.findall(r'"index":([^,}]*)', answer.text):
        assert index.isdecimal()


@pytest.mark.parametrize("bad", ['{"query":"a \\ud800 b","documents":["\\udfff","a\\u0000b"]}'])
def test_characters_that_are_none_are_ranked_and_logged(client, bad):
    answer = client.post("/v1/rerank", content=bad)
    assert answer.status_code == 200
    assert client.log.offered[-1].query == "a \ufffd b"
    client.log.offered[-1].query.encode()


def test_tei_gets_its_own_shape(client):
    answer = client.post("/rerank", json={"query": QUERIES[0], "texts": TEXTS, "raw_scores": False, "truncate": True})
    assert answer.status_code == 200
    scores = answer.json()
    assert [sorted(s) for s in scores] == [["index", "score"]] * len(TEXTS)
    assert [s["index"] for s in scores] == [r["index"] for r in ask(client)["results"]]
    with_text = client.post("/rerank", json={"query": QUERIES[0], "texts": TEXTS, "return_text": True}).json()
    assert all(s["text"] == TEXTS[s["index"]] for s in with_text)


def test_a_connectors_defaults_mean_nothing_was_given(client):
    """The parameters of the connector default to "" and "[]" where the plain rerank processor calls."""
    for doc_ids in ("[]", "", [], None, '["x","y"]', ["x", "y"], ["x", 7]):
        ask(client, documents=["a", "b"], query_id="", doc_ids=doc_ids, slice="", model="darl-v1")
        logged = client.log.offered[-1]
        assert (logged.query_id, logged.slice) == (None, None)
        assert logged.doc_ids in (None, ["x", "y"], ["x", "7"])
        assert (logged.doc_ids is None) == (doc_ids in ("[]", "", [], None))


def test_what_was_ranked_is_offered_to_the_ood_log(client):
    answer = client.post(
        "/v1/rerank",
        json={
            "query": "ski rescue",
            "documents": TEXTS,
            "doc_ids": [i["id"] for i in ITEMS],
            "query_id": 42,
            "slice": "travel",
        },
        headers={"X-Request-Id": "abc-1"},
    )
    assert answer.headers["X-Request-Id"] == answer.json()["id"] == "abc-1"
    logged = client.log.offered[-1]
    assert (logged.request_id, logged.query, logged.query_id, logged.slice) == (
        "abc-1",
        "ski rescue",
        "42",
        "travel",
    )
    assert list(logged.doc_ids) == [i["id"] for i in ITEMS] and list(logged.documents) == TEXTS
    assert logged.route == "server" and logged.timestamp.tzinfo is not None and logged.latency_ms > 0
    assert len(logged.scores) == len(TEXTS)


@pytest.mark.parametrize("bad", ["", "x" * 200, "two words", "tab\there"])
def test_an_unusable_request_id_is_replaced(client, bad):
    answer = client.post("/v1/rerank", json={"query": "a", "documents": ["b"]}, headers={"X-Request-Id": bad})
    assert uuid.UUID(answer.headers["X-Request-Id"]).version == 4


def test_many_callers_at_once_each_get_their_own(client):
    rng = random.Random(7)
    work = [(rng.choice(QUERIES), rng.sample(TEXTS, rng.randint(1, 6))) for _ in range(60)]
    want = [ask(client, *w)["tensors"] for w in work]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda w: ask(client, *w)["tensors"], work))
    for a, b in zip(got, want, strict=True):
        for left, right in zip(json.loads(a), json.loads(b), strict=True):
            np.testing.assert_allclose(left["data"], right["data"], atol=2.1e-6)
