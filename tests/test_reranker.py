"""Reranking opensearch-py responses without ML Commons."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.ood import OodLog
from darl_opensearch.ood.store import SpoolStore
from darl_opensearch.reranker import Reranker
from darl_opensearch.scores import GradeScale, Scores, Thresholds
from darl_opensearch.scoring import Scorer
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE


def response_of(items=ITEMS, *, text=True, total=42):
    hits = [
        {
            "_index": "items",
            "_id": f"doc-{n}",
            "_score": 9.0 - n,
            "_source": item | {"darl_id": item["id"]} | ({"darl_text": TEMPLATE.render(item)} if text else {}),
        }
        for n, item in enumerate(items)
    ]
    return {
        "took": 3,
        "timed_out": False,
        "hits": {"total": {"value": total, "relation": "eq"}, "max_score": 9.0, "hits": hits},
    }


@pytest.fixture(scope="module")
def reranker(tiny):
    with Reranker(tiny) as opened:
        yield opened


@pytest.mark.parametrize("query", QUERIES)
def test_hits_come_in_the_order_of_the_bundle(reranker, tiny, query):
    with Scorer.open(tiny) as scorer:
        scores = scorer.score(query, [tiny.renderer(item) for item in ITEMS])
    answer = reranker.rerank(query, response_of())
    hits = answer["hits"]["hits"]
    assert [h["_id"] for h in hits] == [f"doc-{i}" for i in scores.order()]
    assert [h["_score"] for h in hits] == pytest.approx(sorted(scores.score.tolist(), reverse=True), abs=1e-6)
    assert answer["hits"]["max_score"] == hits[0]["_score"]
    for hit in hits:
        row = int(hit["_id"].removeprefix("doc-"))
        source = hit["_source"]
        seen = [source[name] for name in scores.columns.hit_fields()]
        np.testing.assert_allclose(seen, scores.data[row], atol=1e-6)
        assert source["darl_grade"] == scores.grade[row]
        assert source["previous_score"] == 9.0 - row
        assert source["name"] == ITEMS[row]["name"]


def test_the_rest_of_the_response_is_kept_and_the_input_is_not_changed(reranker):
    response = response_of()
    before = copy.deepcopy(response)
    answer = reranker.rerank(QUERIES[0], response, size=2)
    assert response == before
    assert (answer["took"], answer["hits"]["total"]) == (3, before["hits"]["total"])
    assert len(answer["hits"]["hits"]) == 2
    darl = answer["darl"]
    assert (darl["reranked"], darl["scored"], darl["unscored"]) == (True, len(ITEMS), 0)
    json.dumps(answer, allow_nan=False)


def test_hits_without_text_are_rendered(reranker):
    with_text = reranker.rerank(QUERIES[1], response_of())
    without = reranker.rerank(QUERIES[1], response_of(text=False))
    order = [[h["_id"] for h in a["hits"]["hits"]] for a in (with_text, without)]
    assert order[0] == order[1]


def test_hits_that_cannot_be_rendered_come_last_in_their_order(reranker):
    response = response_of()
    for n in (0, 3):
        response["hits"]["hits"][n]["_source"] = {"other": 1}
    del response["hits"]["hits"][4]["_source"]
    answer = reranker.rerank(QUERIES[0], response)
    hits = answer["hits"]["hits"]
    assert [h["_id"] for h in hits[-3:]] == ["doc-0", "doc-3", "doc-4"]
    assert all(h["_score"] is None for h in hits[-3:])
    assert answer["darl"]["unscored"] == 3


def test_no_hit_with_text_is_an_error_that_says_what_to_ask_for(reranker):
    response = response_of()
    for hit in response["hits"]["hits"]:
        hit["_source"] = {}
    with pytest.raises(InputError, match=r"none of the 6 hits has 'darl_text'.*Ask for 'darl_text' in _source"):
        reranker.rerank("q", response)


def test_no_hits_are_no_error(reranker):
    answer = reranker.rerank("q", response_of([]))
    assert answer["hits"]["hits"] == [] and answer["hits"]["max_score"] is None
    assert answer["darl"]["reranked"] is False


@pytest.mark.parametrize("response", [{}, {"hits": []}, {"error": "x"}, {"hits": {"hits": [3]}}])
def test_what_is_no_search_response_is_refused(reranker, response):
    with pytest.raises(InputError, match="not a search response"):
        reranker.rerank("q", response)


@pytest.mark.parametrize("name", ["size", "from_", "window"])
def test_negative_numbers_of_hits_are_refused(reranker, name):
    with pytest.raises(UsageError, match="-1 hits cannot be returned, skipped or scored"):
        reranker.rerank("q", response_of(), **{name: -1})


def test_hits_beyond_the_window_keep_their_order_and_pages_are_cut_behind_it(reranker, tiny, tmp_path):
    response = response_of()
    response["hits"]["hits"][1]["_source"] = {}
    whole = [hit["_id"] for hit in reranker.rerank(QUERIES[0], response, window=4)["hits"]["hits"]]
    assert set(whole[:3]) == {"doc-0", "doc-2", "doc-3"} and whole[3:] == ["doc-1", "doc-4", "doc-5"]
    answer = reranker.rerank(QUERIES[0], response, window=4, from_=2, size=3)
    assert [hit["_id"] for hit in answer["hits"]["hits"]] == whole[2:5]
    assert (answer["darl"]["scored"], answer["darl"]["unscored"]) == (3, 3)
    with Reranker(tiny, ood_log=tmp_path / "spool.db") as logging:
        assert logging.rerank(QUERIES[0], response, window=0)["darl"]["reranked"] is False
    with SpoolStore(tmp_path / "spool.db") as store:
        assert list(store.requests()) == []


def test_raw_results_of_a_hybrid_query_are_refused(reranker):
    response = response_of()
    response["hits"]["hits"][0]["_score"] = -9549512000.0
    with pytest.raises(InputError, match="raw results of a hybrid query.*Search with a normalization-processor"):
        reranker.rerank("q", response)


def test_equal_scores_keep_the_first_stage_order(reranker):
    answer = reranker.rerank(QUERIES[0], response_of([ITEMS[0]] * 5))
    assert [h["_id"] for h in answer["hits"]["hits"]] == [f"doc-{n}" for n in range(5)]


def test_what_was_ranked_is_logged(tiny, tmp_path):
    path = tmp_path / "spool.db"
    with Reranker(tiny, ood_log=path) as reranker:
        answer = reranker.rerank(QUERIES[0], response_of(), query_id="ubi-1", slice="bicycle", size=1)
    with SpoolStore(path) as store:
        (record,) = store.requests()
        pairs = list(store.pairs())
    assert record.request_id == answer["darl"]["request_id"]
    assert (record.query_id, record.slice, record.route) == ("ubi-1", "bicycle", "python")
    assert (record.model, record.version, record.alpha) == ("tiny", "1", 0.05)
    assert record.candidates == len(ITEMS)  # all that were scored, not only those returned
    assert record.ood_pairs == sum(p.is_ood for p in pairs)
    assert {p.item_id for p in pairs} <= {item["id"] for item in ITEMS}


def test_a_log_that_was_passed_stays_open(tiny, tmp_path):
    with OodLog.open(tmp_path / "spool.db", model="tiny", version="1", alpha=0.05) as log:
        with Reranker(tiny, ood_log=log) as reranker:
            reranker.rerank(QUERIES[0], response_of(), request_id="mine")
        assert log.flush() and log.counters()["spooled_requests"] == 1


def test_search_asks_for_a_window_and_returns_the_size(reranker):
    class Client:
        def search(self, **asked):
            self.asked = asked
            return response_of()

    client = Client()
    answer = reranker.search(client, "items", "stolen bicycle", 2, window=30, filter={"term": {"kind": "travel"}})
    assert len(answer["hits"]["hits"]) == 2
    assert client.asked["body"] == {
        "query": {
            "bool": {
                "must": [{"match": {"darl_text": {"query": "stolen bicycle"}}}],
                "filter": [{"term": {"kind": "travel"}}],
            }
        },
        "size": 30,
    }
    assert client.asked["params"] == {"search_pipeline": "_none"}


# ---- rank


DOCS = [TEMPLATE.render(item) for item in ITEMS]


@pytest.mark.parametrize("query", QUERIES)
def test_rank_returns_every_column_of_the_bundle_best_first(reranker, tiny, query):
    with Scorer.open(tiny) as scorer:
        scores = scorer.score(query, DOCS)
    results = reranker.rank(query, DOCS)
    assert [result.index for result in results] == scores.order().tolist()
    for result in results:
        row = [result.score, *result.grade_probs, result.ood_score, result.ood_distance]
        np.testing.assert_allclose(row, scores.data[result.index], atol=1e-6)
        assert result.grade == scores.grade[result.index] and type(result.grade) is int
    json.dumps([vars(result) for result in results], allow_nan=False)


def test_rank_renders_items_by_the_bundles_template(reranker):
    mixed = [ITEMS[0], DOCS[1], {"darl_text": DOCS[2]}, *ITEMS[3:]]
    assert reranker.rank(QUERIES[0], mixed) == reranker.rank(QUERIES[0], DOCS)


def test_thresholds_of_documents_and_hits(reranker, tiny):
    every = reranker.rank(QUERIES[0], DOCS)
    least = sorted(document.score for document in every)[2]
    assert reranker.rank(QUERIES[0], DOCS, min_score=least) == [d for d in every if d.score >= least]
    best = max(document.grade for document in every)
    name = tiny.card.scale.names[best]
    assert reranker.rank(QUERIES[0], DOCS, min_grade=name) == [d for d in every if d.grade == best]
    alpha = tiny.card.ood.alpha
    known = [d for d in every if d.ood_score < 1 - alpha]
    assert reranker.rank(QUERIES[0], DOCS, drop_ood=True) == known
    with pytest.raises(InputError, match="min_grade: is 'best', not a grade of this model. Use one of 0 "):
        reranker.rank(QUERIES[0], DOCS, min_grade="best")

    response = response_of()
    response["hits"]["hits"].append({"_index": "items", "_id": "bare", "_score": 0.5, "_source": {}})
    whole = reranker.rerank(QUERIES[0], response)
    assert whole["hits"]["hits"][-1]["_id"] == "bare" and whole["darl"]["dropped"] == 0
    scores = [hit["_score"] for hit in whole["hits"]["hits"][:-1]]
    found = reranker.rerank(QUERIES[0], response, min_score=scores[1])
    assert [hit["_score"] for hit in found["hits"]["hits"]] == scores[:2]
    assert found["darl"]["dropped"] == len(scores) + 1 - 2 and found["darl"]["unscored"] == 1
    nothing = reranker.rerank(QUERIES[0], response, min_score=1)
    assert nothing["hits"]["hits"] == [] and nothing["hits"]["max_score"] is None


def test_a_score_printed_as_the_threshold_reaches_it():
    scores = Scores(np.array([[0.7, 0.1, 0.2, 0.7, 0.5, 0.0]], dtype=np.float32), 0.05)
    assert float(scores.score[0]) < 0.7  # in float32
    scale = GradeScale(("none", "some", "2"), (0, 1, 3))
    assert Thresholds.of(scale, min_score=0.7).keep(scores).tolist() == [True]
    assert [Thresholds.of(scale, min_grade=name).min_grade for name in ("some", 1.0, "1", "2", None)] == [1, 1, 1, 2, 0]
    for wrong in ("", "3", -1, 3, float("inf"), float("nan"), [1], "9" * 30):
        with pytest.raises(InputError, match="min_grade: is "):
            Thresholds.of(scale, min_grade=wrong)


def test_rank_returns_the_best_top_n(reranker):
    every = reranker.rank(QUERIES[0], DOCS)
    assert reranker.rank(QUERIES[0], DOCS, top_n=2) == every[:2]
    assert reranker.rank(QUERIES[0], DOCS, top_n=99) == every
    assert reranker.rank(QUERIES[0], DOCS, top_n=0) == []
    with pytest.raises(UsageError, match="top_n is -1. Use 0 or more"):
        reranker.rank(QUERIES[0], DOCS, top_n=-1)


def test_rank_of_no_documents_is_empty(reranker):
    assert reranker.rank("stolen bicycle", []) == []


def test_ranked_ties_stay_in_the_order_given(reranker):
    assert [result.index for result in reranker.rank(QUERIES[0], [DOCS[0]] * 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        ("one text", "docs is one text. Pass a list of texts or items"),
        (["a text", 3], "document 1 is a int, not text"),
        (["a text", {"other": 1}], r"document 1: the item has none of the template's fields \(name, kind, cover\)"),
    ],
)
def test_rank_refuses_what_is_no_document_and_says_which(reranker, docs, message):
    with pytest.raises(InputError, match=message):
        reranker.rank("stolen bicycle", docs)


def test_what_rank_ranked_is_logged(tiny, tmp_path):
    path = tmp_path / "spool.db"
    with Reranker(tiny, ood_log=path) as reranker:
        reranker.rank(QUERIES[0], ITEMS, top_n=1)
        reranker.rank(QUERIES[0], DOCS)
    with SpoolStore(path) as store:
        requests, pairs = list(store.requests()), list(store.pairs())
    assert [(r.candidates, r.route) for r in requests] == [(len(ITEMS), "python")] * 2
    assert {p.item_id for p in pairs} <= {None, *(item["id"] for item in ITEMS)}
