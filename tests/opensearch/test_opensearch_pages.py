"""Pages of one ranking: what clients cut from it, and what ``from`` does to a search of any client."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.cluster.pipelines import fetch_max_result_window
from darl_opensearch.errors import ClusterError, InputError
from darl_opensearch.reranker import Reranker
from tests.helpers.commands import run_main

pytestmark = pytest.mark.opensearch
MODES = ("local", "connector")
WINDOW = 50
QUERY = "stolen bike cover"  # "cover" is in all of the 400 items


def ids_of(hits):
    return [hit.id for hit in hits]


@pytest.mark.parametrize("mode", MODES)
def test_pages_are_cut_from_one_ranking(both, mode):
    both.write_pipelines(mode, "-pages", max_k=WINDOW)
    searching, window = both.search(f"-{mode}-pages"), WINDOW
    long = searching.search(QUERY, size=50)
    pages = [searching.search(QUERY, size=10, from_=10 * number) for number in range(5)]
    assert [hit for page in pages for hit in page.hits] == list(long.hits)
    assert [hit.position for hit in pages[2].hits] == list(range(21, 31))
    assert all(page.reranked and page.window == window for page in pages)
    # The window ends within a page, after which the first stage's order goes on: nothing is lost, nothing comes twice.
    first_stage = [hit["_id"] for hit in searching.first_stage(QUERY, size=window + 30)]
    pages = [searching.search(QUERY, size=20, from_=from_) for from_ in range(window - 30, window + 30, 20)]
    hits = [hit for page in pages for hit in page.hits]
    assert [page.reranked for page in pages] == [True] * 3
    assert [hit.position for hit in hits if hit.grade is None] == list(range(window + 1, window + 31))
    assert ids_of(hits)[30:] == first_stage[window:]
    whole = searching.search(QUERY, size=window)
    assert ids_of(whole.hits)[-30:] == ids_of(hits)[:30] and set(ids_of(whole.hits)) == set(first_stage[:window])
    assert pages[1].ranked_request().doc_ids == ids_of(pages[1].hits)[:10] and pages[2].ranked_request() is None
    known = searching.search(QUERY, size=20, from_=window - 10, min_score=1e-9)
    assert (ids_of(known.hits), ids_of(known.dropped)) == (ids_of(pages[1].hits)[:10], ids_of(pages[1].hits)[10:])


def test_the_window_is_at_least_a_page(both):
    searching = both.search(f"-{both.mode}")
    outcome = searching.search(QUERY, size=60)
    assert outcome.window == 60 and all(hit.grade is not None for hit in outcome.hits)
    pages = [searching.search(QUERY, size=60, from_=from_) for from_ in range(0, 400, 60)]
    assert len({hit.id for page in pages for hit in page.hits}) == sum(len(page.hits) for page in pages) == 400


def test_the_last_page_and_those_behind_it(both):
    both.write_pipelines("connector", "-pages", max_k=100)
    searching = both.search("-connector-pages")
    body = {"query": {"match": {"darl_text": "luggage"}}}
    every = searching.search("luggage", size=100, body=body)
    count = every.total
    assert count == len(every.hits) < 100
    last = searching.search("luggage", size=50, from_=count - 3, body=body)
    assert ids_of(last.hits) == ids_of(every.hits)[-3:] and last.total == count
    behind = searching.search("luggage", size=50, from_=count, body=body)
    assert behind.hits == () and behind.reranked


def test_pages_of_a_reranker(both):
    with Reranker(both.bundle) as reranker:

        def page(size, from_, **options):
            answer = reranker.search(both.cluster.client, both.index, QUERY, size, from_=from_, **options)
            return [hit["_id"] for hit in answer["hits"]["hits"]], answer["darl"]

        long, _ = page(50, 0)
        assert sum((page(10, from_)[0] for from_ in range(0, 50, 10)), []) == long
        first_stage = [hit["_id"] for hit in both.search(f"-{both.mode}").first_stage(QUERY, size=80)]
        assert set(long) == set(first_stage[:50])
        across, told = page(20, 40)
        assert across == long[40:] + first_stage[50:60] and (told["scored"], told["unscored"]) == (50, 10)
        behind, told = page(20, 60)
        assert behind == first_stage[60:] and (told["scored"], told["reranked"]) == (0, False)
        assert page(20, 40, min_score=1e-9)[0] == long[40:] and page(20, 60, min_score=1e-9)[0] == []


@pytest.mark.parametrize("mode", MODES)
def test_no_search_is_made_to_pass_the_result_window(both, mode):
    """Of the 40 hits that this pipeline may fetch, some are skipped."""
    both.write_pipelines(mode, "-narrow", max_result_window=40)
    for suffix, scored_from in (("", {0: 40, 20: 20, 30: 10, 39: 10}), ("-plain", {30: 10})):
        for from_, scored in scored_from.items():
            before = len(both.scorer.requests)
            hits = both.send(f"-{mode}-narrow{suffix}", {"from": from_, "size": 10})["hits"]["hits"]
            assert len(hits) == 10
            if mode == "connector":
                [request] = both.scorer.requests[before:]
                assert len(request["documents"]) == scored
    # As wide as OpenSearch lets a search be; oversampled it was answered with 400.
    assert both.send(f"-{mode}", {"from": 9990, "size": 10})["hits"]["hits"] == []
    with pytest.raises(ClusterError, match=r"from \+ size must be less than or equal to: \[10000\] but was \[10001\]"):
        both.send(f"-{mode}", {"from": 9991, "size": 10})
    assert both.search(f"-{mode}-narrow").search(QUERY, size=5).window == 40


def test_the_result_window_of_an_alias_is_its_narrowest_index(both):
    name, alias = f"{both.name}-narrow", f"{both.name}-alias"
    both.cluster.send("PUT", f"/{name}", {"settings": {"index.max_result_window": 700}, "aliases": {alias: {}}})
    try:
        assert fetch_max_result_window(both.cluster, both.index) == 10_000
        assert fetch_max_result_window(both.cluster, name) == 700
        both.cluster.send("PUT", f"/{both.index}/_alias/{alias}")
        assert fetch_max_result_window(both.cluster, alias) == 700
    finally:
        both.cluster.send("DELETE", f"/{name}")
        both.cluster.send("DELETE", f"/{both.index}/_alias/{alias}")
    for missing in (name, f"{name}*"):
        with pytest.raises(ClusterError, match="no such index|does not exist"):
            fetch_max_result_window(both.cluster, missing)


def test_a_page_at_the_command_line(both):
    both.write_pipelines(both.mode, "-pages", max_k=WINDOW)
    where = ["--bundle", str(both.bundle.path), "--url", both.cluster.url, "--index", both.index, "--no-ood-log"]
    asked = ["--pipeline", f"{both.name}-{both.mode}-pages", "--from", "40", "--size", "20", "--json"]
    shown = json.loads(run_main("search", QUERY, *where, *asked).out)
    assert [hit["position"] for hit in shown["hits"]] == list(range(41, 61))
    page = both.search(f"-{both.mode}-pages").search(QUERY, size=20, from_=40)
    assert [hit["id"] for hit in shown["hits"]] == ids_of(page.hits)
    assert [hit["position_before"] for hit in shown["hits"][10:]] == list(range(51, 61))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from_": -1}, "from_ -1 is negative. Use 0"),
        ({"body": {"query": {"match_all": {}}, "from": 10}}, "the search body has from. Pass from_ instead"),
    ],
)
def test_pages_that_are_none(both, options, message):
    with pytest.raises(InputError, match=message):
        both.search(f"-{both.mode}").search(QUERY, **options)


def hybrid(*texts, **options):
    return {"query": {"hybrid": {"queries": [{"match": {"darl_text": text}} for text in texts]} | options}}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("texts", [("stolen bike", "storm roof"), ("stolen bike", "storm roof", "cover pipes")])
def test_hybrid_queries(both, mode, texts):
    """The first stage's order is that of the combined sub-queries, and what is reranked is hits alone."""
    both.write_pipelines(mode, "-mixed", max_k=30, oversample=3)
    searching, body = both.search(f"-{mode}-mixed-hybrid"), hybrid(*texts)
    first_stage = searching.first_stage(QUERY, size=30, body=body)
    combined = [hit["_score"] for hit in first_stage]
    assert combined == sorted(combined, reverse=True) and 0 < combined[-1] <= combined[0] <= 1
    outcome = searching.search(QUERY, size=10, body=body)
    scores = both.local_scorer.score(QUERY, [hit["_source"]["darl_text"] for hit in first_stage])
    assert outcome.reranked and len(outcome.hits) == 10 and outcome.window == 30
    assert [hit.score for hit in outcome.hits] == pytest.approx(sorted(scores.score.tolist())[:-11:-1], abs=1e-5)
    assert {hit.id: hit.first_score for hit in outcome.hits}.items() <= {
        h["_id"]: h["_score"] for h in first_stage
    }.items()
    assert all(hit.grade_name and sum(hit.grade_probs) == pytest.approx(1, abs=1e-4) for hit in outcome.hits)
    # Any client gets the same from as many candidates.
    raw = both.send(f"-{mode}-mixed-hybrid", {**body, "size": 10}, QUERY)["hits"]["hits"]
    assert [hit["_id"] for hit in raw] == ids_of(outcome.hits)
    # Other queries are served as by the pipeline that is not for hybrid ones.
    plain = both.search(f"-{mode}-mixed").search(QUERY, size=5)
    assert searching.search(QUERY, size=5).hits == plain.hits


def test_pages_of_a_hybrid_query(both):
    both.write_pipelines(both.mode, "-mixed", max_k=20, oversample=2)
    searching = both.search(f"-{both.mode}-mixed-hybrid")
    body = hybrid("stolen bike", "storm roof")
    long = searching.search(QUERY, size=20, body=body)
    pages = [searching.search(QUERY, size=5, from_=from_, body=body) for from_ in range(0, 20, 5)]
    assert [hit for page in pages for hit in page.hits] == list(long.hits)
    with pytest.raises(ClusterError, match="pagination_depth param is missing"):
        searching.search(QUERY, size=5, from_=20, body=body)
    body = hybrid("stolen bike", "storm roof", pagination_depth=100)
    pages = [searching.search(QUERY, size=15, from_=from_, body=body) for from_ in range(0, 60, 15)]
    assert len({hit.id for page in pages for hit in page.hits}) == 60


def test_a_hybrid_query_through_a_pipeline_that_does_not_combine(both, tmp_path):
    body = hybrid("stolen bike", "storm roof")
    message = (
        f"search pipeline '{both.name}-{both.mode}' has no processor that combines .*'{both.name}-{both.mode}-hybrid'"
    )
    for search in (both.search(f"-{both.mode}").search, both.search(f"-{both.mode}").first_stage):
        with pytest.raises(InputError, match=message):
            search(QUERY, body=body)
    raw = both.send(f"-{both.mode}", {**body, "size": 10}, QUERY)["hits"]["hits"]
    assert min(hit["_source"]["previous_score"] for hit in raw) < -4e9  # what the refusal is for
    place = f"/{both.index}/_search?search_pipeline=_none"
    with Reranker(both.bundle) as reranker, pytest.raises(InputError, match="raw results of a hybrid query"):
        reranker.rerank(QUERY, both.cluster.read("POST", place, body))
