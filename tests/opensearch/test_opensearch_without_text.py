"""Documents without ``darl_text`` on a real node: one of them switches reranking off, and who counts them."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.cli.release import find_warnings
from darl_opensearch.cluster import load_items
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.pipelines import put_pipelines, render_pipelines
from darl_opensearch.cluster.without_text import (
    count_documents_without_text,
    count_hits_without_text,
    describe_documents_without_text,
    describe_hits_without_text,
)
from darl_opensearch.reranker import Reranker
from darl_opensearch.warm import WarmOptions, warm_index
from tests.helpers.bundles import ITEMS
from tests.helpers.cluster import clean_up
from tests.helpers.files import write_rows

pytestmark = pytest.mark.opensearch


@pytest.fixture
def mixed(place, tmp_path):
    """An alias over the items and over another index, whose two documents have no text: its name, and the other's."""
    cluster, other, alias = place.cluster, f"{place.name}-other", f"{place.name}-all"
    items = write_rows(tmp_path / "items.jsonl", ITEMS)
    load_items(cluster, place.bundle, items, place.index).check()
    cluster.send("PUT", join_path(other))
    for number in range(2):
        cluster.send("PUT", join_path(other, "_doc", str(number)) + "?refresh=true", {"name": "a bike"})
    actions = [{"add": {"index": index, "alias": alias}} for index in (place.index, other)]
    cluster.send("POST", "/_aliases", {"actions": actions})
    yield alias, other
    clean_up(cluster, place.bundle, pipeline_names=set(), indexes={other})


def test_documents_without_text_are_counted_by_index(place, mixed, small, tmp_path, darl):
    alias, other = mixed
    assert count_documents_without_text(place.cluster, place.index) == {}
    assert count_documents_without_text(place.cluster, alias) == {other: 2}
    place.cluster.send("PUT", join_path(place.index, "_doc", "x") + "?refresh=true", {"name": "a bike"})
    assert count_documents_without_text(place.cluster, alias) == {other: 2, place.index: 1}
    words = ["index", place.bundle.path, tmp_path / "items.jsonl", "--url", place.cluster.url, "--index", place.index]
    said = darl(*words, "--json")
    assert said.err.startswith(f"warning: 1 document has no darl_text (index {place.index}): a search with one among")
    assert json.loads(said.out)["index_without_text"] == {place.index: 1}
    assert [text for text in find_warnings(place.cluster, alias) if text.startswith("3 documents have no darl_text (")]
    [unknown] = [text for text in find_warnings(place.cluster, "no-such-index") if "darl_text" in text]
    assert unknown.startswith("documents without darl_text could not be counted (the cluster answered 404: no such")
    warmed = warm_index(small[1], place.cluster, alias, "all", WarmOptions(states=tmp_path / "states"))
    assert (warmed.items, warmed.without_text) == (len(ITEMS), 3)
    assert "6 items encoded, 0 were there; 3 without text passed over" in warmed.describe()


def test_search_says_why_it_was_not_reranked(place, mixed, darl):
    alias, other = mixed
    put_pipelines(place.cluster, render_pipelines(place.bundle.card, "local", "no-such-model", place.pipeline()))
    words = ["search", "bike", "--bundle", place.bundle.path, "--url", place.cluster.url, "--pipeline", place.name]
    words += ["--no-ood-log"]
    said = darl(*words, "--index", alias)
    assert said.err == (
        "darl: not reranked: the hits are in first-stage order. Check the node's log and the scorer.\n"
    )  # all hits have a text: the model is what is missing
    copied = {"properties": {"title": {"type": "text", "copy_to": "darl_text"}, "darl_text": {"type": "text"}}}
    place.cluster.send("PUT", join_path(other, "_mapping"), copied)
    place.cluster.send("PUT", join_path(other, "_doc", "copied") + "?refresh=true", {"title": "bike"})
    said = darl(*words, "--index", alias)
    found = len(place.search().first_stage("bike", size=50)) + 1
    assert said.err == (
        f"darl: not reranked: 1 of {found} hits has no darl_text (index {other}). "
        "Load them with darl index, or search without that index.\n"
    )
    with Reranker(place.bundle) as reranker:  # it ranks the others
        answer = reranker.search(place.cluster.client, alias, "bike", 50)
    assert (answer["darl"]["scored"], answer["darl"]["unscored"]) == (found - 1, 1)
    assert [hit["_id"] for hit in answer["hits"]["hits"] if hit["_score"] is None] == ["copied"]
    assert answer["hits"]["hits"][-1]["_id"] == "copied"


def test_hits_without_text_are_counted_by_index():
    hits = [{"_index": "a", "_source": {"darl_text": "x"}}, {"_index": "b", "_source": {}}, {"_index": "b"}]
    assert count_hits_without_text(hits) == {"b": 2}
    assert describe_hits_without_text({"b": 2}, 3).startswith("2 of 3 hits have no darl_text (index b). Load them")
    assert describe_hits_without_text({"b": 1}, 50).startswith("1 of 50 hits has no darl_text (index b). Load them")
    assert describe_hits_without_text({}, 50) == describe_documents_without_text({}) == ""
    assert "3 documents have no darl_text (a: 2, b: 1): " in describe_documents_without_text({"a": 2, "b": 1})
