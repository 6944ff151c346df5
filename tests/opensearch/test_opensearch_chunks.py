"""Long items on a real node: the connector scores all chunks, a model in the cluster the first, and says so."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.cluster import load_items
from darl_opensearch.cluster.probe import probe_search
from darl_opensearch.errors import ClusterError
from darl_opensearch.scoring import Scorer
from tests.helpers.chunks import LONG_ITEMS, in_chunks
from tests.helpers.cluster import RunningScorer
from tests.helpers.files import write_rows

pytestmark = pytest.mark.opensearch
QUERY = "stolen bicycle"
BODY = {"query": {"exists": {"field": "darl_text"}}}


@pytest.mark.local_mode
def test_all_chunks_by_connector_and_the_first_in_the_cluster(place, tmp_path, darl):
    items, plain = write_rows(tmp_path / "items.jsonl", LONG_ITEMS), place.bundle
    place.bundle = in_chunks(plain, tmp_path / "chunks")
    load_items(place.cluster, plain, items, place.index).check()
    with RunningScorer(place.bundle) as scorer:
        connected = place.register("connector", scorer, "-connector")
        local = place.register("local", suffix="-local")
        assert connected.warning == "" and "only the first" in local.warning
        with pytest.raises(ClusterError, match="holds no items with darl_long_text"):
            probe_search(place.cluster, place.bundle, "connector", connected.model_id, place.index)
        loaded = load_items(place.cluster, place.bundle, items, place.index)
        loaded.check()
        assert loaded.beyond_chunks == 1  # the last item has more text than three chunks
        for mode, model in (("connector", connected), ("local", local)):
            assert probe_search(place.cluster, place.bundle, mode, model.model_id, place.index).hits == 4
        texts = {item["id"]: place.bundle.renderer(item) for item in LONG_ITEMS}
        with Scorer.open(place.bundle) as opened:
            for suffix, shown in (("-connector", lambda text: text), ("-local", place.bundle.renderer.first)):
                found = place.search(suffix).search(QUERY, size=4, body=BODY)
                assert found.reranked and len(found.hits) == 4
                for hit in found.hits:
                    row = opened.score(QUERY, [shown(texts[hit.source["darl_id"]])])
                    assert hit.score == pytest.approx(float(row.score[0]), abs=1e-5)
                    assert hit.ood_distance == pytest.approx(float(row.ood_distance[0]), abs=1e-5)
        sent = scorer.requests[-1]
        assert set(sent["documents"]) == set(texts.values())
    said = darl("register", place.bundle.path, "--url", place.cluster.url, "--pipeline", place.name + "-local",
                    "--json")  # fmt: skip
    assert json.loads(said.out)["reused"] and "warning: the bundle scores a long item in up to 3 chunks" in said.err
