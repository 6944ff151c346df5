"""Item states on a real node: encoded before a release switches, all of an index or what the log has most of."""

from __future__ import annotations

import json
import uuid

import pytest

from darl_opensearch.cluster import load_items
from darl_opensearch.errors import UsageError
from darl_opensearch.ood import Shipper, StreamStore
from darl_opensearch.ood.spool import Spool
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore
from darl_opensearch.warm import WarmOptions, warm_index
from tests.helpers.cluster import clean_up
from tests.helpers.files import read_rows
from tests.helpers.traffic import request_of, rows_of
from tests.helpers.trained import SAMPLE

pytestmark = pytest.mark.opensearch


@pytest.fixture
def name(cluster, small):
    """Of a pipeline; its items are loaded into an index of the same name."""
    name = f"t{uuid.uuid4().hex[:10]}"
    load_items(cluster, small[1], SAMPLE / "items.jsonl", f"{name}-items").check()
    yield name
    clean_up(cluster, small[1], pipeline_names={name}, indexes={f"{name}-items", f"{name}-releases"})


@pytest.fixture
def texts(small):
    return {row["id"]: small[1].renderer(row) for row in read_rows(SAMPLE / "items.jsonl")}


def hits(bundle, folder, documents):
    with StateStore(folder) as store, Scorer.open(bundle, states=store) as scorer:
        scorer.score("stolen", documents)
        return store.counts.hits


@pytest.mark.local_mode
def test_a_release_encodes_before_it_switches(cluster, small, name, texts, darl, tmp_path):
    words = [
        "release", small[1].path, "--url", cluster.url, "--pipeline", name, "--history", f"{name}-releases",
        "--index", f"{name}-items", "--json",
    ]  # fmt: skip
    for options, message in (
        (["--warm", "all"], "--warm requires --index and --states"),
        (["--warm", "most", "--states", tmp_path], "write all, or a number from 1 to 65535"),
        (["--warm", "0", "--states", tmp_path], "the items to warm are '0'"),
    ):
        ended = darl(*words, *options)
        assert ended.code == 2 and message.lower() in ended.err.lower()
    darl(*words, "--warm", "all", "--states", tmp_path, "--dry-run")
    assert hits(small[1], tmp_path / "other", list(texts.values())) == 0 and not list(tmp_path.glob("*.sqlite"))
    ended = darl(*words, "--warm", "all", "--states", tmp_path)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["served"]["version"] == small[1].card.version
    assert (result["states"]["encoded"], result["states"]["there"]) == (len(texts), 0)
    assert hits(small[1], tmp_path, list(texts.values())) == len(texts)


def test_what_the_log_has_most_of(cluster, small, name, texts, tmp_path):
    stream, ids = f"{name}-ood", list(texts)[:4]
    options = WarmOptions(states=tmp_path / "states")
    with pytest.raises(UsageError, match="no item texts to warm"):  # nothing has been logged yet
        warm_index(small[1], cluster, f"{name}-items", "3", options, stream=stream)
    requests = [request_of(n, [0.99] * (4 - n), doc_ids=ids[n:], documents=["x"] * (4 - n)) for n in range(4)]
    with Spool.open(tmp_path / "spool.db", create=True) as spool:
        spool.append(rows_of(requests))
    try:
        with Shipper(tmp_path / "spool.db", cluster.client, stream=stream) as shipper:
            shipper.ship_all()
        cluster.client.indices.refresh(index=stream)
        assert StreamStore(cluster.client, stream=stream).most_logged(3) == ids[:0:-1]  # the last one in four requests
        report = warm_index(small[1], cluster, f"{name}-items", "2", options, stream=stream)
        assert (report.items, report.encoded) == (2, 2)
        assert hits(small[1], tmp_path / "states", [texts[item] for item in ids]) == 2
    finally:
        cluster.client.indices.delete_data_stream(name=stream, ignore=[400, 404])
        cluster.client.indices.delete_index_template(name=stream, ignore=404)
