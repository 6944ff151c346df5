"""Each row of the table of a search's other features, on a real node and in both modes; what is logged of failures."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.cluster.index import make_document
from darl_opensearch.cluster.pipelines import put_pipelines, render_pipelines
from darl_opensearch.config_files import OMIT, render_body
from darl_opensearch.ood import SpoolStore
from darl_opensearch.search import is_in_order
from tests.helpers.commands import run_main
from tests.helpers.search_features import FEATURES, GROUP, NESTED, OVERSAMPLE, QUERY, SIZE, send
from tests.opensearch.conftest import many_items

pytestmark = pytest.mark.opensearch
ROWS = [pytest.param(feature, mode, id=f"{feature.what}-{mode}") for feature in FEATURES for mode in feature.modes]


@pytest.fixture(scope="module")
def rich(both):
    """An index of 40 items with nested objects, and pipelines that oversample by a known factor."""
    index = f"{both.name}-rich"
    mappings = render_body("items_mapping.json", long_text=OMIT)
    colour = {"properties": {"colour": {"type": "keyword"}}}
    mappings["properties"] |= {NESTED: {"type": "nested", **colour}, GROUP: {"type": "keyword"}}
    both.cluster.send("PUT", f"/{index}", {"settings": {"number_of_shards": 1}, "mappings": mappings})
    lines = []
    for number, item in enumerate(many_items(40)):
        key, document = make_document(both.bundle, item)
        document |= {NESTED: [{"colour": "red"}, {"colour": ("blue", "green")[number % 2]}]}
        lines += [{"index": {"_id": key}}, document]
    both.cluster.client.bulk(index=index, body=lines, refresh=True)
    for mode in both.ids:
        both.write_pipelines(mode, "-rich", oversample=OVERSAMPLE)
    yield index
    both.cluster.send("DELETE", f"/{index}")


@pytest.mark.parametrize(("feature", "mode"), ROWS)
def test_features(both, rich, feature, mode):
    ext = {"ml_inference": {"query_text": QUERY}}
    body = {"size": SIZE, "query": {"match": {"darl_text": QUERY}}, "ext": ext} | dict(feature.body)
    first = send(both.cluster, rich, "_none", body | {"size": body["size"] * OVERSAMPLE})
    answer = feature.send(both.cluster, rich, f"{both.name}-{mode}-rich", body)
    searching = both.search(f"-{mode}-rich")
    hits = [searching._hit(place, hit) for place, hit in enumerate(answer["hits"]["hits"], 1)]
    assert is_in_order(hits) is feature.reranked
    assert len(hits) == feature.hits
    assert feature.check(answer, first)


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_a_search_that_was_not_reranked_is_logged(both, tmp_path, mode):
    """Also behind a connector, whose scorer knows nothing of it; a reranked one it has logged itself."""
    pipeline = both.pipeline(f"-{mode}-broken")
    put_pipelines(both.cluster, render_pipelines(both.bundle.card, mode, "no-such-model", pipeline))
    outcome = both.search(f"-{mode}-broken").search(QUERY, size=3, query_id="q-1", slice="bicycle")
    request = outcome.ranked_request("r-1")
    assert (outcome.reranked, request.reranked, request.documents, request.query_id) == (False, False, [], "q-1")
    spool = tmp_path / "ood.sqlite"
    where = ["--bundle", both.bundle.path, "--url", both.cluster.url, "--index", both.index, "--ood-log", spool]
    for name in (f"-{mode}-broken", f"-{mode}"):
        said = run_main("search", QUERY, *where, "--pipeline", both.name + name, "--json")
        broken = name.endswith("broken")
        assert ("not reranked" in said.err) is broken
        assert json.loads(said.out)["logged"] is (broken or mode == "local")
    with SpoolStore(spool) as store:
        records = list(store.requests(not_reranked=True))
    scored = [("search", True, 10)] if mode == "local" else []
    assert [(r.route, r.reranked, r.candidates) for r in records] == [("search", False, 0), *scored]
    assert "1 searches NOT reranked" in run_main("monitor", "--spool", spool).out
