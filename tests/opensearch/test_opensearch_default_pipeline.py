"""Indices whose default search pipeline is ours: what a scroll loses, who warns of it, and that our readers do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from opensearchpy.helpers import scan

from darl_opensearch.cluster import load_items
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.default_pipelines import describe_default_pipelines, find_default_pipelines
from darl_opensearch.cluster.history import History, Served
from darl_opensearch.cluster.item_index import make_first_stage, scan_texts
from darl_opensearch.cluster.pipelines import fetch_pipeline, put_pipelines, render_pipelines
from darl_opensearch.ood import Shipper, SpoolStore, StreamStore, join_texts
from darl_opensearch.ood.spool import Spool
from darl_opensearch.reranker import Reranker
from tests.helpers.cluster import clean_up
from tests.helpers.files import write_rows
from tests.helpers.traffic import rows_of, traffic
from tests.opensearch.conftest import Place, make_place

pytestmark = pytest.mark.opensearch
COUNT = 12


@dataclass(frozen=True)
class World:
    """Items, an OOD log and a history of releases, each with a pipeline of ours by default."""

    place: Place
    stream: str
    history: str
    kept: Path


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("default")
    place = make_place(cluster, folder)
    made = World(place, f"{place.name}-ood", f"{place.name}-releases", folder / "kept.db")
    items = [{"id": f"i-{n}", "name": "bike", "cover": f"cover {'pipes ' * (n % 7)}"} for n in range(COUNT)]
    load_items(cluster, place.bundle, write_rows(folder / "items.jsonl", items), place.index).check()
    rows = rows_of(traffic(30))
    for path in (made.kept, folder / "shipped.db"):
        with Spool.open(path, create=True) as spool:
            spool.append(rows)
    with Shipper(folder / "shipped.db", cluster.client, stream=made.stream) as shipper:
        shipper.ship_all()
    for number in range(COUNT):
        to = Served(place.name, str(number), "local", "m")
        History(cluster, place.name, made.history).begin(number, "release", to, state="done")
    # The model need not exist: what cannot be reranked is cut all the same.
    put_pipelines(cluster, render_pipelines(place.bundle.card, "local", "no-such-model", place.pipeline()))
    for index in (place.index, made.stream, made.history):
        cluster.send("PUT", join_path(index, "_settings"), {"index.search.default_pipeline": place.name})
    yield made
    cluster.client.indices.delete_data_stream(name=made.stream)
    cluster.client.indices.delete_index_template(name=made.stream)
    clean_up(cluster, place.bundle, pipeline_names=set(), indexes={place.index, made.history})
    clean_up(cluster, place.bundle, pipeline_names=place.used, indexes=set())  # none that an index needs


def test_a_scroll_loses_documents_and_our_readers_none(world):
    place, cluster = world.place, world.place.cluster
    assert len(list(scan(cluster.client, index=place.index, query={}, size=2))) < COUNT  # what this is about
    # One that leaves a single hit of any search shows whether a reader goes through it.
    body = dict(fetch_pipeline(cluster, place.name))
    body["response_processors"] = [*body["response_processors"], {"truncate_hits": {"target_size": 1}}]
    put_pipelines(cluster, {place.name: body})
    for index in (place.index, world.history, world.stream):
        assert len(cluster.client.search(index=index, body={"size": COUNT})["hits"]["hits"]) == 1
    assert len(list(scan_texts(cluster, place.index))) == COUNT
    ids = {f"i-{n}" for n in range(COUNT)}
    assert set(make_first_stage(cluster, place.index)("cover", COUNT)) == ids
    assert join_texts(cluster.client, place.index, sorted(ids)).texts.keys() == ids
    assert len(place.search().first_stage("cover", size=COUNT)) == COUNT
    with Reranker(place.bundle) as reranker:
        answer = reranker.search(cluster.client, place.index, "cover", COUNT)
    assert {hit["_id"] for hit in answer["hits"]["hits"]} == ids
    with SpoolStore(world.kept) as kept:
        log = StreamStore(cluster.client, stream=world.stream, page_records=7)
        assert list(log.requests()) == list(kept.requests())
        assert list(log.pairs()) == list(kept.pairs())
        assert set(log.most_logged(100)) == {pair.item_id for pair in kept.pairs()}
    assert len(History(cluster, place.name, world.history).events()) == COUNT


@pytest.mark.local_mode
def test_who_changes_a_pipeline_is_warned_of_scrolls(world, darl):
    place, version = world.place, world.place.bundle.card.version
    found = find_default_pipelines(place.cluster)
    ours = sorted(index for index, pipeline in found.items() if pipeline == place.name)
    assert ours == [f".ds-{world.stream}-000001", place.index, world.history]
    common = ["--url", place.cluster.url, "--dry-run"]
    pipeline = ["--pipeline", place.name, "--history", world.history]
    for words in (
        ["register", place.bundle.path, *common],
        ["release", place.bundle.path, *pipeline, *common],
        ["rollback", "--to", version, *pipeline, *common],
    ):
        said = darl(*words)
        assert f"warning: a darl pipeline is the default of {len(found)} indices: " in said.err
        assert said.err.endswith("loses documents. Clients that scroll must send search_pipeline=_none\n")
    place.cluster.send("PUT", join_path(place.index, "_settings"), {"index.search.default_pipeline": "_none"})
    assert place.index not in find_default_pipelines(place.cluster)
    place.cluster.send("PUT", join_path(place.index, "_settings"), {"index.search.default_pipeline": place.name})


def test_the_warning_names_some_indices_and_counts_the_rest():
    assert describe_default_pipelines({}) == ""
    assert "the default of index a (p): a scroll" in describe_default_pipelines({"a": "p"})
    many = describe_default_pipelines({f"i{n}": "p" for n in range(7)})
    assert "the default of 7 indices: i0 (p), i1 (p), i2 (p), i3 (p), i4 (p) and 2 more: a scroll" in many
