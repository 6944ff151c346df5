"""The try-out page over a cluster's index: reranked here and through a pipeline, and when an index goes away."""

from __future__ import annotations

import pytest

from darl_opensearch.errors import ClusterError
from darl_opensearch.search import PipelineSearch
from darl_opensearch.states import StateStore
from darl_opensearch.tryout.candidates import ClusterRetriever
from darl_opensearch.tryout.session import TryOut
from darl_opensearch.tryout.versions import ServedVersion, TriedVersion
from tests.helpers.bundles import bundle_of
from tests.helpers.commands import run_main

pytestmark = pytest.mark.opensearch
QUERY = 'stolen "bike" cover'


@pytest.fixture
def store():
    with StateStore(None) as opened:
        yield opened


def test_served_and_here_agree_and_another_version_ranks_the_same_candidates(both, store, tmp_path):
    other = bundle_of(tmp_path, "other", "2", -10)
    search = both.search("-local")
    bundles = [both.bundle, other]
    retriever = ClusterRetriever(search, bundles)
    window = search.search("warm up", size=5).window
    served = ServedVersion(both.bundle, "served", store, search, retriever)
    here, backwards = (
        TriedVersion(bundle, name, n, store) for n, (bundle, name) in enumerate(zip(bundles, "ab", strict=True))
    )
    tryout = TryOut(retriever, [served, here, backwards], size=5, window=window)
    told = tryout.search({"query": QUERY})
    one, two, three = (version["rows"] for version in told["versions"])
    assert [row["item"] for row in one] == [row["item"] for row in two] and len(one) == 5
    assert [row["was"] for row in one] == [row["was"] for row in two]
    for a, b in zip(one, two, strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-3) and a["grade"] == b["grade"]
    assert {row["item"] for row in three} != {row["item"] for row in one}
    assert set(told["versions"][0]["places"].values()) >= {1, 2, 3, 4, 5}
    assert [v["problem"] for v in told["versions"]] == ["", "", ""]
    assert told["versions"][0]["stages"][0]["detail"] == "local"
    assert told["items"][one[0]["item"]]["id"] == one[0]["item"]
    for version in tryout.versions:
        version.close()


def test_an_index_that_is_not_there(both, opensearch_url):
    said = run_main("try", both.bundle.path, "--index", "none-of-this", "--url", opensearch_url)
    assert said.code == 1 and "none-of-this" in said.err and said.err.count("\n") == 1
    search = PipelineSearch(both.cluster.client, both.bundle, "none-of-this")
    with pytest.raises(ClusterError):
        ClusterRetriever(search, [both.bundle]).retrieve("x", 1)


def test_a_pipeline_that_serves_another_version(both, opensearch_url, tmp_path):
    other = bundle_of(tmp_path, "other", "2", 3)
    command = ("try", other.path, "--index", both.index, "--pipeline", f"{both.name}-local", "--url", opensearch_url)
    said = run_main(*command)
    assert said.code == 2 and f"serves {both.bundle.card.name} 1, not other 2" in said.err
