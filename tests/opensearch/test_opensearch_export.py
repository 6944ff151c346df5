"""A bundle that was trained and exported ranks in a real node as it does here."""

from __future__ import annotations

import uuid

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, load_items, register
from darl_opensearch.cluster.verify import ask_model
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.scoring import Scorer
from darl_opensearch.search import PipelineSearch
from tests.helpers.bundles import copy_bundle, correct_digests
from tests.helpers.cluster import clean_up
from tests.helpers.trained import SAMPLE

pytestmark = [pytest.mark.opensearch, pytest.mark.local_mode]
QUERIES = ["cover for a stolen bicycle", "burst pipe above the kitchen", "lost luggage on the way home"]


@pytest.fixture(scope="module")
def deployed(opensearch_url, small, tmp_path_factory):
    """The trained bundle under a name of its own, registered in the cluster, with the sample's items indexed."""
    name = f"t{uuid.uuid4().hex[:10]}"
    folder = copy_bundle(small[1], tmp_path_factory.mktemp("deployed") / name)
    bundle = Bundle.open(correct_digests(folder, name=name))
    cluster = Cluster.open(ClusterOptions(url=opensearch_url))
    try:
        done = register(bundle, cluster, RegisterOptions(mode="local", pipeline=PipelineOptions(name=name)))
        load_items(cluster, bundle, SAMPLE / "items.jsonl", f"{name}-items").check()
        yield cluster, bundle, done, PipelineSearch(cluster.client, bundle, f"{name}-items", name)
    finally:
        clean_up(cluster, bundle, pipeline_names={name}, indexes={f"{name}-items"})
        cluster.client.close()


def test_the_node_answers_as_the_bundle(deployed):
    cluster, bundle, done, _ = deployed
    assert done.deviation is not None and done.deviation <= 1e-4  # registering compared them
    pairs, reference = bundle.probes()
    for (query, text), row in list(zip(pairs, reference, strict=True))[:12]:
        [said] = ask_model(cluster, "local", done.model_id, query, [text])
        row = row.tolist()
        assert said[:4] == pytest.approx(row[:4], abs=1e-4)
        assert said[5] == pytest.approx(row[5], abs=1e-4 * max(1, abs(row[5])))
        assert said[4] == pytest.approx(row[4], abs=2 / bundle.card.ood.calibration_pairs + 1e-6)


def test_searches_rank_as_the_bundle_does(deployed):
    _, bundle, _, searching = deployed
    moved = 0
    with Scorer.open(bundle) as scorer:
        for query in QUERIES:
            outcome = searching.search(query, size=10)
            assert outcome.reranked and len(outcome.hits) == 10
            assert all("darl_score" in hit.source and "darl_ood_distance" in hit.source for hit in outcome.hits)
            candidates = searching.first_stage(query, size=50)
            scores = scorer.score(query, [hit["_source"]["darl_text"] for hit in candidates])
            best = scores.score[scores.order()][:10]
            assert [hit.score for hit in outcome.hits] == pytest.approx(best.tolist(), abs=1e-4)
            by_id = {hit["_id"]: float(s) for hit, s in zip(candidates, scores.score, strict=True)}
            assert [by_id[hit.id] for hit in outcome.hits] == pytest.approx(best.tolist(), abs=1e-4)
            moved += [hit.id for hit in outcome.hits] != [hit["_id"] for hit in candidates[:10]]
    assert moved == len(QUERIES)  # never the first stage's own order


def test_registering_again_changes_nothing(deployed):
    cluster, bundle, done, _ = deployed
    again = register(bundle, cluster, RegisterOptions(mode="local", pipeline=PipelineOptions(name=bundle.card.name)))
    assert again.reused and again.model_id == done.model_id and set(again.pipelines.values()) == {"unchanged"}
