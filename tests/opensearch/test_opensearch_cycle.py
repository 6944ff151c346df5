"""A cycle on a real node: from the data stream to a pipeline that asks the new version, and back."""

from __future__ import annotations

import json
import os
import shutil
import uuid

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.cycle_world import Surroundings
from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, load_items, register
from darl_opensearch.cluster.release import RollbackOptions, rollback
from darl_opensearch.cluster.versions import list_versions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.ood import Shipper
from darl_opensearch.search import PipelineSearch
from tests.helpers.bundles import copy_bundle, correct_digests
from tests.helpers.cluster import clean_up
from tests.helpers.cycles import write_cycle
from tests.helpers.trained import SAMPLE
from trainer.cycle.config import read_cycle
from trainer.cycle.run import plan_cycle, run_cycle

pytestmark = [pytest.mark.opensearch, pytest.mark.local_mode]


@pytest.fixture
def served(opensearch_url, small, tmp_path):
    """Version 1 behind a pipeline, its items in an index, a day's log in a data stream, and a cycle.toml."""
    cluster, name = Cluster.open(ClusterOptions(url=opensearch_url)), f"t{uuid.uuid4().hex[:10]}"
    bundle = Bundle.open(correct_digests(copy_bundle(small[1], tmp_path / "bundle"), name=name))
    training = tmp_path / "data" / "darl.toml"
    shutil.copytree(small[0].folder.parent / "data", training.parent)
    training.write_text(training.read_text(encoding="utf-8").replace('"small"', f'"{name}"'), encoding="utf-8")
    path = write_cycle(
        tmp_path, bundle, training, log={"spool": "", "stream": f"{name}-ood"},
        release={"url": opensearch_url, "index": f"{name}-items", "pipeline": name},
    )  # fmt: skip
    try:
        register(bundle, cluster, RegisterOptions(pipeline=PipelineOptions(name=name, max_k=37)))
        for number, file in enumerate(("items", "new_items")):
            load_items(cluster, bundle, SAMPLE / f"{file}.jsonl", f"{name}-items", recreate=number == 0).check()
        with Shipper(tmp_path / "spool.sqlite", cluster.client, stream=f"{name}-ood") as shipper:
            shipper.ship_all()
        cluster.client.indices.refresh(index=f"{name}-ood")
        yield cluster, bundle, name, path
        cluster.client.indices.delete_data_stream(name=f"{name}-ood")
    finally:
        made = path.parent / "cycles" / "0001" / "bundle"
        for one in (bundle, *([Bundle.open(made)] if made.is_dir() else [])):
            clean_up(cluster, one, pipeline_names={name}, indexes={f"{name}-items"})


def test_a_cycle_releases_and_the_way_back_is_open(served):
    cluster, bundle, name, path = served
    search = PipelineSearch(cluster.client, bundle, f"{name}-items", name)
    before = [hit.id for hit in search.search("puppy ate a sock", size=5).hits]

    # Cut off behind the registering: the release finds the model that is there.
    config = read_cycle(path)
    world = Surroundings(config, path.parent, ClusterOptions()).world()
    stopped = run_cycle(config, path.parent, world, until="register")
    assert stopped.outcome == "stopped" and stopped.reason == "next is release"
    assert [(v.served.version, v.state) for v in list_versions(cluster, name)][:1] == [("1", "serving")]
    assert [hit.id for hit in search.search("puppy ate a sock", size=5).hits] == before
    model = stopped.steps["register"]["model_id"]

    done = run_cycle(config, path.parent, world)
    assert done.outcome == "released" and done.steps["release"]["served"]["model_id"] == model
    states = {v.served.version: v for v in list_versions(cluster, name)}
    assert states["2"].state == "serving" and states["1"].state == "deployed"
    assert states["2"].event.cycle == "0001" and states["2"].gate["passed"]
    made = Bundle.open(path.parent / "cycles" / "0001" / "bundle")
    found = PipelineSearch(cluster.client, made, f"{name}-items", name).search("puppy ate a sock", size=5)
    assert found.reranked and len(found.hits) == 5

    rollback(cluster, RollbackOptions(pipeline=name))
    assert [hit.id for hit in search.search("puppy ate a sock", size=5).hits] == before
    assert {v.served.version: v.state for v in list_versions(cluster, name)} == {"1": "serving", "2": "deployed"}

    # current.json still names version 2: the next cycle would compare with what nobody is served by.
    with pytest.raises(UsageError, match=rf"serves {name} 1, but the cycle starts from {name} 2 .*current.json"):
        plan_cycle(config, path.parent, world)
    current = path.parent / "cycles" / "current.json"
    current.write_text(json.dumps({"bundle": os.path.relpath(bundle.path, current.parent)}))
    assert plan_cycle(config, path.parent, world).begins


def test_a_log_that_cannot_be_read_is_said(served):
    _, _, _, path = served
    config = read_cycle(path, ["release.url='http://127.0.0.1:9'"])
    with pytest.raises(ClusterError, match="127.0.0.1:9"):
        run_cycle(config, path.parent, Surroundings(config, path.parent, ClusterOptions()).world())


def test_a_log_that_nothing_was_shipped_to_is_not_called_quiet(served):
    _, bundle, name, path = served
    config = read_cycle(path, [f"log.stream='{name}-none'", "start.when='drift'"])
    started = Surroundings(config, path.parent, ClusterOptions()).world().start(bundle)
    assert not started.begin and f"holds no requests of {bundle.card.name} 1" in started.reasons[0]
    assert started.reasons[1:] == ("darl ship sends spooled records to the stream",)
