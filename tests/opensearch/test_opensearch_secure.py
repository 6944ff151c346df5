"""A real node behind what operators put before one: TLS, client certificates, a password, signed requests."""

from __future__ import annotations

import json
import uuid

import pytest

from darl_opensearch.cluster import Cluster
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.ood.spool import Spool
from tests.helpers.bundles import ITEMS
from tests.helpers.certificates import Authority, server_context
from tests.helpers.cluster import RunningScorer
from tests.helpers.files import write_rows
from tests.helpers.http import guarded_proxy, serving
from tests.helpers.signed import signed_proxy
from tests.helpers.traffic import rows_of, traffic

pytestmark = pytest.mark.opensearch
PASSWORD, KEY = "pa:ss-M4RK", "k3y-M4RK"
AWS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "aws-M4RK", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def stream(cluster):
    name = f"darl-test-ood-{uuid.uuid4().hex[:8]}"
    yield name
    cluster.client.indices.delete_data_stream(name=name, ignore=[400, 404])
    cluster.client.indices.delete_index_template(name=name, ignore=404)


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    write_rows(folder / "items.jsonl", ITEMS)
    return folder


def whole_way(darl, place, stream, work, *options, scorer=()):
    """Register, index, search and ship; gives what was said."""
    bundle, name, spool = place.bundle.path, place.pipeline().name, work / "ood.sqlite"
    with Spool.open(spool, create=True) as opened:
        opened.append(rows_of(traffic(2)))
    said = []
    for command in (
        ("register", bundle, "--pipeline", name, *scorer, "--dry-run"),
        ("register", bundle, "--pipeline", name, *scorer, "--json"),
        ("index", bundle, work / "items.jsonl", "--index", place.index),
        ("search", "stolen bike", "--bundle", bundle, "--index", place.index, "--pipeline", name, "--ood-log", spool,
         "--ood-sample-rate", 1, "--json"),
        ("ship", "--spool", spool, "--stream", stream, "--json"),
        ("versions", "--pipeline", name),
    ):  # fmt: skip
        done = darl(*command, *options)
        assert done.code == 0, done.err
        said.append(done)
    assert json.loads(said[1].out)["deviation"] < 1e-4
    assert json.loads(said[3].out)["reranked"]
    assert json.loads(said[4].out)["left"] == 0
    text = "".join(part.out + part.err for part in said)
    assert "M4RK" not in text
    assert not [path for path in work.rglob("*") if path.is_file() and b"M4RK" in path.read_bytes()]


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_the_whole_way_through_tls_and_a_password(place, opensearch_url, stream, work, tmp_path, darl, mode):
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("client")
    password, keys = tmp_path / "password", tmp_path / "keys"
    password.write_text(PASSWORD + "\n")
    keys.write_text(KEY + "\n")
    context = server_context(*ours.issue("server", host="IP:127.0.0.1"), clients=ours.cert)
    with (
        RunningScorer(place.bundle, key_file=keys) as scorer,
        serving(guarded_proxy(opensearch_url, "ann", PASSWORD), context) as url,
    ):
        behind = ("--mode", "connector", "--scorer-url", scorer.url, "--scorer-key-file", keys)
        login = ("--url", url, "--ca-certs", ours.cert, "--client-cert", cert, "--client-key", key, "--user", "ann")
        whole_way(
            darl, place, stream, work, *login, "--password-file", password,
            scorer=behind if mode == "connector" else (),
        )  # fmt: skip
        keys.write_text("other\n")
        wrong = darl("versions", *login, "--password-file", keys)
        assert wrong.code == 1 and "does not accept this user and password (401)" in wrong.err


@pytest.mark.local_mode
def test_the_whole_way_with_signed_requests(place, opensearch_url, stream, work, darl, monkeypatch):
    with serving(signed_proxy(opensearch_url, "AKIDEXAMPLE", "aws-M4RK", "eu-west-1", "es")) as url:
        options = ("--url", url, "--aws-region", "eu-west-1")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(work / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(work / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(UsageError, match="there are no AWS credentials"):
            Cluster.open(ClusterOptions(url=url, aws_region="eu-west-1"))
        for name, value in AWS.items():
            monkeypatch.setenv(name, value)
        whole_way(darl, place, stream, work, *options)
        for wrong, reason in (
            ({"aws_region": "us-east-1"}, "scoped to a valid region"),
            ({"aws_region": "eu-west-1", "aws_service": "aoss"}, "scoped to a valid region"),
            ({}, "User: anonymous is not authorized"),
        ):
            with pytest.raises(ClusterError, match=rf"not allowed \(403: .*{reason}"):
                Cluster.open(ClusterOptions(url=url, **wrong)).identify()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(ClusterError, match="the signature you provided"):
            Cluster.open(ClusterOptions(url=url, aws_region="eu-west-1")).identify()
