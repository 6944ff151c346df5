"""What needs no cluster: sizes, digests, answers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, connector, models
from darl_opensearch.cluster import verify as verifying
from darl_opensearch.cluster.connector import ScorerAddress
from darl_opensearch.cluster.verify import parse_rows
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import BundleError, ClusterError, UsageError
from darl_opensearch.scoring import Scorer
from tests.helpers.http import Quiet, serving


def test_a_model_too_large_for_the_cluster(tiny, monkeypatch):
    models.check_local_size(tiny)
    monkeypatch.setattr(models, "MAX_LOCAL_BYTES", 1000)
    with pytest.raises(
        BundleError, match="GB, but ML Commons accepts at most .* register the student distilled from it"
    ):
        models.check_local_size(tiny)


def test_a_model_in_two_files(tiny, tmp_path):
    import shutil

    folder = tmp_path / "two"
    shutil.copytree(tiny.path, folder)
    (folder / models.EXTERNAL_DATA).write_bytes(b"0" * 10)
    with pytest.raises(BundleError, match="Use --mode connector"):
        models.check_local_size(Bundle(folder, tiny.card, {**tiny.digests, models.EXTERNAL_DATA: ""}))


def test_the_digest_of_a_connector(tiny):
    one = ScorerAddress("http://127.0.0.1:1/v1/rerank", "key")
    assert connector.digest_connector(tiny, one) == connector.digest_connector(
        tiny, ScorerAddress(one.url, "other key")
    )
    assert connector.digest_connector(tiny, one) != connector.digest_connector(
        tiny, ScorerAddress("http://127.0.0.1:2/v1/rerank")
    )
    assert "key" not in repr(one)


@pytest.mark.parametrize("url", ["", "x", "http://h", "http://h/", "ftp://h/x", "http://u:p@h/x"])
def test_scorer_addresses_that_are_none(url):
    with pytest.raises(UsageError, match="is not the URL of a rerank route|holds a user or a password"):
        ScorerAddress(url)


def test_answers_of_both_kinds():
    local = {"inference_results": [{"output": [{"data": [1, 2]}]}, {"output": [{"data": [3, 4]}]}]}
    remote = {"inference_results": [{"output": [{"data": [1, 2]}, {"data": [3, 4]}]}]}
    for answer in (local, remote):
        np.testing.assert_array_equal(parse_rows(answer, where="u"), [[1, 2], [3, 4]])
    for answer in ({}, {"inference_results": [{"output": [{"dataAsMap": {}}]}]}, {"inference_results": None}):
        with pytest.raises(ClusterError, match="does not hold rows of numbers"):
            parse_rows(answer, where="u")


class Pretended:
    """A cluster whose model answers as told."""

    url = "http://node"


@pytest.mark.parametrize("pairs", [39, 1_000_000])
def test_a_step_of_the_ood_score_is_float_noise_and_two_are_not(tiny, monkeypatch, pairs):
    """However many pairs the calibration counted: the graph's table holds 4,096 at most, here 39."""
    card = dataclasses.replace(tiny.card, ood=dataclasses.replace(tiny.card.ood, calibration_pairs=pairs))
    bundle = Bundle(tiny.path, card, tiny.digests)
    with Scorer.open(tiny) as scorer:

        def off_by(steps):
            def answer(cluster, mode, model_id, query, documents):
                rows = scorer.score(query, documents).data.astype(np.float64)
                rows[:, card.columns.ood_score] += steps / 40
                return rows

            return answer

        monkeypatch.setattr(verifying, "ask_model", off_by(1))
        assert verifying.verify(Pretended(), bundle, "local", "m") == 0
        monkeypatch.setattr(verifying, "ask_model", off_by(3))
        with pytest.raises(ClusterError, match="answers differently from the bundle"):
            verifying.verify(Pretended(), bundle, "local", "m")


def test_a_model_that_is_reported_deployed_slightly_too_early(tiny, monkeypatch):
    asked = []
    with Scorer.open(tiny) as scorer:

        def answer(cluster, mode, model_id, query, documents):
            asked.append(query)
            if len(asked) < 3:
                raise ClusterError("the cluster answered 400: Model not ready yet. Please deploy the model first")
            return scorer.score(query, documents).data.astype(np.float64)

        monkeypatch.setattr(verifying, "ask_model", answer)
        assert verifying.verify(Pretended(), tiny, "local", "m", ready_within=30.0) < 1e-6
        assert asked[0] == asked[1] == asked[2] != asked[3]
        asked.clear()
        with pytest.raises(ClusterError, match="Model not ready yet"):
            verifying.verify(Pretended(), tiny, "local", "m")
        assert len(asked) == 1  # said to be deployed since long, after a restart perhaps: waiting would not help


@pytest.fixture
def recorded_ml():
    """ML Commons by answers: each request takes the next of its list, and the last one again."""
    answers, asked = {}, []

    class Recorded(Quiet):
        def answer_next(self) -> None:
            self.body()
            asked.append(f"{self.command} {self.path}")
            left = answers[asked[-1]]
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.answer(status, json.dumps(body).encode())

        do_GET = do_POST = do_PUT = answer_next

    with serving(Recorded) as url:
        cluster = Cluster.open(ClusterOptions(url=url))
        yield cluster, answers, asked
        cluster.client.close()


def test_the_first_connector_waits_for_the_key_of_the_cluster(tiny, recorded_ml):
    """As seen on a new 2.19.1 node."""
    cluster, answers, asked = recorded_ml
    late = {"error": {"type": "m_l_exception", "reason": "Fetching master key timed out."}, "status": 500}
    create = "POST /_plugins/_ml/connectors/_create"
    answers[create] = [(500, late), (500, late), (200, {"connector_id": "c"})]
    address = ScorerAddress("http://127.0.0.1:1/v1/rerank")
    assert connector.create_connector(cluster, tiny, address) == "c"
    assert asked == [create] * 3 and len(cluster.calls) == 1
    answers[create] = [(500, {"error": {"type": "x", "reason": "another"}, "status": 500})]
    with pytest.raises(ClusterError, match="another"):
        connector.create_connector(cluster, tiny, address)


def test_a_changed_connector_is_waited_for_on_every_node(recorded_ml):
    cluster, answers, asked = recorded_ml

    def profile(*objects):
        nodes = {f"n{at}": {"models": {"m": {"predictor": name}}} for at, name in enumerate(objects) if name}
        return 200, {"nodes": nodes}

    read = "GET /_plugins/_ml/profile/models/m"
    answers["PUT /_plugins/_ml/models/m"] = [(200, {})]
    answers[read] = [profile("a", "b"), profile("a", "b"), profile("c", "b"), profile("c", "d")]
    connector.use_connector(cluster, "m", "new", timeout=30.0)
    assert asked.count(read) == 4
    answers[read] = [profile()]  # no node has it in memory: the next search loads it
    connector.use_connector(cluster, "m", "new", timeout=30.0)
    answers[read] = [profile("a", "b"), profile(None, "b")]  # one has left, one keeps it
    with pytest.raises(ClusterError, match=r"node n1 still uses the old connector of model m after 0\.1 s\. Check the"):
        connector.use_connector(cluster, "m", "new", timeout=0.1)
