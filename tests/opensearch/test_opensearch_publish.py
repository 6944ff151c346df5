"""``darl publish``: from a finished run to a pipeline that reranks, by one command."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, load_items
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.search import PipelineSearch
from tests.helpers.cluster import clean_up
from tests.helpers.trained import SAMPLE, write_project


@pytest.fixture
def run_of(tmp_path, checkpoint, darl):
    """A finished run of a model with a name of its own."""
    name = f"p{uuid.uuid4().hex[:10]}"
    config = write_project(tmp_path / "project", str(checkpoint))
    done = darl("train", config, "--run", tmp_path / "run", "--set", f'model.name="{name}"')
    assert done.code == 0, done.err
    return name, tmp_path / "run"


@pytest.mark.local_mode
@pytest.mark.opensearch
def test_a_run_becomes_a_pipeline_that_reranks(opensearch_url, run_of, darl):
    name, run = run_of
    done = darl("publish", run, "--url", opensearch_url, "--pipeline", name, "--apply-settings", "--json")
    assert done.code == 0, done.err
    bundle = Bundle.open(run / "bundle")
    cluster = Cluster.open(ClusterOptions(url=opensearch_url))
    try:
        told = json.loads(done.out)
        assert told["name"] == name and told["pipelines"][name] == "created" and told["deviation"] <= 1e-4
        load_items(cluster, bundle, SAMPLE / "items.jsonl", f"{name}-items").check()
        outcome = PipelineSearch(cluster.client, bundle, f"{name}-items", name).search("cover for a stolen bicycle")
        assert outcome.reranked and all("darl_score" in hit.source for hit in outcome.hits)
        again = darl("publish", run, "--url", opensearch_url, "--pipeline", name, "--json")
        assert again.code == 0 and json.loads(again.out)["model_id"] == told["model_id"]
    finally:
        clean_up(cluster, bundle, pipeline_names={name}, indexes={f"{name}-items"})
        cluster.client.close()


def test_it_stops_where_the_cluster_cannot_be_reached(small, tmp_path, darl):
    run = Path(shutil.copytree(small[0].folder, tmp_path / "run"))
    done = darl("publish", run, "--url", "http://127.0.0.1:9", "--pipeline", "x")
    assert done.code == 1
    assert [line for line in done.err.splitlines() if line.startswith("darl: ")] == [done.err.splitlines()[-1]]
    assert Bundle.open(run / "bundle")  # what was finished stays
