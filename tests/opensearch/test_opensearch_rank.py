"""Both kinds of model rank on a real node, whatever the query is, and as the bundle itself would."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darl_opensearch import config_files
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.guards import ZERO_WIDTH_SPACE
from darl_opensearch.cluster.pipelines import DEFAULT_MAX_K, fetch_pipeline
from darl_opensearch.errors import ClusterError, InputError
from darl_opensearch.search import PipelineSearch, is_in_order
from darl_opensearch.text import cut_to_tokens
from tests.helpers.raw_queries import RAW_QUERIES

pytestmark = pytest.mark.opensearch
MODES = ("local", "connector")
UGLY = [
    'say "stolen"', '"quoted"', "back\\slash", "\\", "line\nbreak", "a\tb", "a\u2028b", "nul\x00l \x01",
    '["foo"]', '  ["foo"] ', '{"a":1}', "{a:1}", "[]", "{}", "[1,2", "[foo]", "'x'",
    "${parameters.x}", "${parameters.documents}", "${parameters.query}", "$${parameters.x}",
    "${input_map.text_docs}", "${input_map.query_text}", "${ml_inference.parameters}", "${credential.api_key}",
    "$._request.x", "{{model_id}}", "%s %d", "</script>", "été 中文 😀", "123", "true", "null", "x" * 3000,
]  # fmt: skip


def in_model_order(both, query, candidates):
    """What the bundle itself makes of the first stage's candidates, ids and scores, best first."""
    scores = both.local_scorer.score(query, [hit["_source"]["darl_text"] for hit in candidates])
    return [(candidates[i]["_id"], float(scores.score[i])) for i in scores.order()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", ["stolen bike cover", "storm roof cover", "lost luggage flight cover"])
def test_ranks_as_the_bundle_does(both, mode, query):
    searching = both.search(f"-{mode}")
    outcome = searching.search(query, size=10)
    candidates = searching.first_stage(query, size=outcome.window)
    expected = in_model_order(both, query, candidates)
    assert outcome.reranked
    assert len(outcome.hits) == 10
    assert all("darl_score" in hit.source for hit in outcome.hits)
    assert [hit.id for hit in outcome.hits] != [hit["_id"] for hit in candidates[:10]]  # not the first stage's order
    assert [hit.score for hit in outcome.hits] == pytest.approx([s for _, s in expected[:10]], abs=1e-5)
    by_id = dict(expected)
    assert [by_id[hit.id] for hit in outcome.hits] == pytest.approx([s for _, s in expected[:10]], abs=1e-6)
    distinct = {round(s, 5) for s in by_id.values()}
    if len(distinct) == len(by_id):  # no ties: then the ids too
        assert [hit.id for hit in outcome.hits] == [i for i, _ in expected[:10]]


@pytest.mark.parametrize("mode", MODES)
def test_grades_and_ood_of_each_hit(both, mode):
    outcome = both.search(f"-{mode}").search("stolen bike cover", size=5)
    for hit in outcome.hits:
        row = both.local_scorer.score("stolen bike cover", [hit.source["darl_text"]])
        assert hit.grade == int(row.grade[0])
        assert hit.grade_name == both.bundle.card.scale.names[hit.grade]
        assert hit.grade_probs == pytest.approx(row.grade_probs[0].tolist(), abs=1e-5)
        assert hit.ood_distance == pytest.approx(float(row.ood_distance[0]), abs=1e-5)
        assert hit.is_ood == bool(row.is_ood[0])
    request = outcome.ranked_request()
    assert request.route == "search"
    assert request.doc_ids == [hit.id for hit in outcome.hits]
    assert request.scores.data.shape == (5, both.bundle.card.columns.width)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", UGLY)
def test_every_query_is_reranked(both, mode, query):
    outcome = both.search(f"-{mode}").search(query, size=5, body={"query": {"match": {"darl_text": "cover"}}})
    assert len(outcome.hits) == 5
    assert outcome.reranked
    texts = [hit.source["darl_text"] for hit in outcome.hits]
    # The tokenizer drops the guards again, so the model sees the query as it is.
    assert [hit.score for hit in outcome.hits] == pytest.approx(
        both.local_scorer.score(query, texts).score.tolist(), abs=1e-5
    )
    if mode == "connector":
        card = both.bundle.card
        read = cut_to_tokens(query, both.bundle.tokenizer, card.query_cap) or query
        assert both.scorer.requests[-1]["query"].replace(ZERO_WIDTH_SPACE, "") == read


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", RAW_QUERIES, ids=lambda kind: kind.what)
def test_queries_as_they_are(both, mode, kind):
    """The table of docs/opensearch.md: what any client sends, without our guards."""
    for suffix in (f"-{mode}", f"-{mode}-plain"):
        for query in kind.queries:
            body = {"query": {"constant_score": {"filter": {"match": {"darl_text": "cover"}}}}, "size": 5}
            hits = both.send(suffix, body, query)["hits"]["hits"]
            reranked = all(hit["_score"] != 1.0 for hit in hits)
            assert len(hits) == 5 and reranked is (suffix not in kind.not_reranked), (suffix, query)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.text(
        st.one_of(st.sampled_from("\"\\[]{}$.:,'\n \tab1é"), st.characters(codec="utf-8")), min_size=1, max_size=30
    )
)
def test_any_text_is_reranked(both, mode, query):
    if query.strip():
        outcome = both.search(f"-{mode}").search(query, size=2, body={"query": {"match": {"darl_text": "cover"}}})
        assert outcome.hits and outcome.reranked


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 11, 40, 41, 49, 50, 51, 199, 200, 201])
def test_sizes_and_the_cap(both, mode, size):
    cap = DEFAULT_MAX_K[mode]
    both.write_pipelines(mode, "-sizes")
    before = len(both.scorer.requests)
    hits = both.send(f"-{mode}-sizes", {"size": size}, "cover")["hits"]["hits"]
    assert len(hits) == size
    assert is_in_order([both.search(f"-{mode}-sizes")._hit(place, hit) for place, hit in enumerate(hits, 1)])
    wanted = min(400, max(size, min(5 * size, cap)))
    if mode == "connector":
        [request] = both.scorer.requests[before:]  # one request a search, with all its pairs
        assert len(request["documents"]) == len(request["doc_ids"]) == wanted
    else:
        assert scored_in_cluster(both, size) == wanted


def scored_in_cluster(both, size):
    """Pairs that the in-cluster pipeline scores: its hits with a score when nothing is truncated."""
    body = fetch_pipeline(both.cluster, f"{both.name}-local-sizes")
    body["response_processors"] = [step for step in body["response_processors"] if "truncate_hits" not in step]
    both.used.add(f"{both.name}-untruncated")
    both.cluster.send("PUT", join_path("_search", "pipeline", f"{both.name}-untruncated"), body)
    hits = both.send("-untruncated", {"size": size}, "cover")["hits"]["hits"]
    return sum("darl_score" in hit["_source"] for hit in hits)


@pytest.mark.parametrize("mode", MODES)
def test_thresholds_leave_hits_out_but_not_out_of_the_log(both, mode):
    searching = both.search(f"-{mode}")
    every = searching.search("stolen bike cover", size=20)
    least = sorted(hit.score for hit in every.hits)[10]
    best = max(hit.grade for hit in every.hits)
    for thresholds, reaches in (
        ({"min_score": least}, lambda hit: hit.score >= least),
        ({"min_grade": both.bundle.card.scale.names[best]}, lambda hit: hit.grade == best),
        ({"drop_ood": True}, lambda hit: not hit.is_ood),
    ):
        outcome = searching.search("stolen bike cover", size=20, **thresholds)
        assert [hit.id for hit in outcome.hits] == [hit.id for hit in every.hits if reaches(hit)]
        assert len(outcome.hits) + len(outcome.dropped) == 20
        assert sorted(outcome.ranked_request().doc_ids) == sorted(every.ranked_request().doc_ids)
    with pytest.raises(InputError, match="min_grade: is 'best', not a grade of this model"):
        searching.search("stolen bike cover", min_grade="best")


@pytest.mark.parametrize("mode", MODES)
def test_plain_pipeline_ranks_too(both, mode):
    query = "stolen bike cover"
    body = config_files.render_body("search.json", size=10, query=query)
    body["ext"] = {"rerank": {"query_context": {"query_text": query}}}
    answer = both.cluster.read("POST", f"/{both.index}/_search?search_pipeline={both.name}-{mode}-plain", body)
    graded = both.search(f"-{mode}").search(query, size=10)
    assert [hit["_score"] for hit in answer["hits"]["hits"]] == pytest.approx([h.score for h in graded.hits], abs=1e-6)


def test_plain_pipeline_is_refused_by_the_client(both):
    with pytest.raises(ClusterError, match=rf"does not write grades; '.*-{both.mode}' does"):
        both.search(f"-{both.mode}-plain").search("x")


def test_missing_pipeline_and_index(both):
    with pytest.raises(ClusterError, match="search pipeline 'nope' does not exist. Create it with darl register"):
        PipelineSearch(both.cluster.client, both.bundle, both.index, "nope").search("x")
    with pytest.raises(ClusterError, match="no such index"):
        PipelineSearch(both.cluster.client, both.bundle, "t-nope", f"{both.name}-{both.mode}").search("x")


@pytest.mark.parametrize("mode", MODES)
def test_nothing_found(both, mode):
    outcome = both.search(f"-{mode}").search("qqqq")
    assert outcome.hits == ()
    assert outcome.reranked  # nothing came back in the wrong order
    assert outcome.ranked_request() is None


@pytest.mark.parametrize("query", ["", "  \n", "x" * 10_001, "\ud800"])
def test_queries_that_are_none(both, query):
    with pytest.raises(InputError):
        both.search(f"-{both.mode}").search(query)


def test_an_item_with_a_placeholder_spoils_no_search(both, tmp_path):
    import json

    from darl_opensearch.cluster import load_items

    items = tmp_path / "items.jsonl"
    texts = ["${parameters.documents}", "${input_map.text_docs}", "${ml_inference.parameters}", '["a"]', 'q"\\']
    items.write_text("".join(json.dumps({"id": f"x{n}", "cover": f"spoiler {t}"}) + "\n" for n, t in enumerate(texts)))
    load_items(both.cluster, both.bundle, items, both.index).check()
    try:
        for mode in both.ids:
            outcome = both.search(f"-{mode}").search("spoiler", size=10)
            assert len(outcome.hits) == len(texts) and outcome.reranked
    finally:
        for n in range(len(texts)):
            both.cluster.send("DELETE", f"/{both.index}/_doc/x{n}")
        both.cluster.send("POST", f"/{both.index}/_refresh")


def test_total_hits_switched_off_is_switched_on_again(both):
    body = {"query": {"match": {"darl_text": "cover"}}, "track_total_hits": False}
    assert both.search(f"-{both.mode}").search("stolen bike", body=body).reranked


def test_hits_that_were_scored_but_not_ordered_are_not_called_reranked(both):
    """With total hits off ``by_field`` fails: the scores are there, the order is the first stage's."""
    shape = both.search(f"-{both.mode}")
    body = shape._request("stolen bike", 10, {"query": {"match": {"darl_text": "cover"}}}, None, None)
    answer = both.cluster.read(
        "POST", f"/{both.index}/_search?search_pipeline={both.name}-{both.mode}", body | {"track_total_hits": False}
    )
    hits = answer["hits"]["hits"]
    assert all("darl_score" in hit["_source"] and "previous_score" not in hit["_source"] for hit in hits)
    assert not is_in_order([shape._hit(place, hit) for place, hit in enumerate(hits, 1)])


@pytest.mark.parametrize("mode", MODES)
def test_query_path(both, mode):
    scorer = both.scorer if mode == "connector" else None
    both.register(mode, scorer, f"-{mode}-path", pipeline={"query_path": "query.match.darl_text.query", "max_k": 5})
    searching = both.search(f"-{mode}-path")
    for query in [
        "stolen bike cover",
        'cover "stolen" \\ bike',
        '["cover"]',
        "${parameters.query} cover",
        "cover\nbike",
    ]:
        outcome = searching.search(query, size=5)
        assert outcome.hits and outcome.reranked, query
    with pytest.raises(InputError, match=r"the search body has no text at query\.match\.darl_text\.query"):
        searching.search("x", body={"query": {"match_all": {}}})


def test_query_id_and_slice_reach_the_scorer(both):
    both.register("connector", both.scorer, "-ids", pipeline={"with_query_id": True, "max_k": 5})
    searching = both.search("-ids")
    assert searching.search("cover", size=2, query_id="q-7", slice="bicycle").reranked
    request = both.scorer.requests[-1]
    assert (request["query_id"], request["slice"]) == ("q-7", "bicycle")
    assert searching.search("cover", size=2).reranked  # the client always sends them
    assert searching.search("cover", size=2, query_id='["x"]').reranked
