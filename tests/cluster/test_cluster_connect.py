"""Each way of not reaching a cluster is one line that says what to do."""

from __future__ import annotations

import json
import socket

import pytest

from darl_opensearch.cluster import Cluster, RegisterOptions, ScorerAddress, calls, register
from darl_opensearch.connect import ClusterOptions, calling, connect
from darl_opensearch.errors import ClusterError, UsageError
from tests.helpers.commands import run_darl
from tests.helpers.http import Quiet, guarded_proxy, serving, stub_cluster

OPENSEARCH = {"version": {"distribution": "opensearch", "number": "3.6.0"}, "cluster_name": "c"}


def identify(url, **options):
    cluster = Cluster.open(ClusterOptions(url=url, **options))
    try:
        return cluster.identify()
    finally:
        cluster.client.close()


def test_who_is_there():
    with serving(stub_cluster({("GET", "/"): OPENSEARCH})) as url:
        found = identify(url)
    assert (found.number, found.version, found.name) == ("3.6.0", (3, 6), "c")


def test_closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError) as err:
            identify(url)
    assert str(err.value) == f"{url}: nothing is listening there. Start OpenSearch, or check --url."


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, b"<html>hello</html>"), "the server there is not OpenSearch. Point --url at"),
        ((200, {"hello": 1}), "the server there is not OpenSearch"),
        ((200, {"version": {"number": "8.1.0"}}), "this is Elasticsearch 8.1.0, not OpenSearch"),
        ((404, b"<html>none</html>"), "answered 404 without JSON. Check that OpenSearch"),
        ((403, {"error": {"reason": "no permissions for [x]"}}), r"not allowed \(403: no permissions for \[x\]\)"),
        ((401, b"Unauthorized"), r"does not accept this user and password \(401\). Check --user"),
        ((500, {"error": {"root_cause": [{"reason": "it\nbroke"}]}}), "the cluster answered 500: it broke"),
        ((503, {"error": "plain words"}), "the cluster answered 503: plain words"),
        (
            (403, {"error": {"type": "cluster_block_exception", "reason": "blocked by: [FORBIDDEN/10/create-index]"}}),
            "no index can be created: the nodes' disks are nearly full, or cluster.blocks.create_index is set. Free",
        ),
    ],
)
def test_answers_that_are_none(answer, message):
    with serving(stub_cluster({("GET", "/"): answer})) as url:
        with pytest.raises(ClusterError, match=message) as err:
            identify(url)
    assert str(err.value).startswith(url)
    assert "\n" not in str(err.value)


def test_wrong_password():
    with serving(stub_cluster({("GET", "/"): OPENSEARCH})) as node:
        with serving(guarded_proxy(node, "ann", "right")) as url:
            assert identify(url, user="ann", password="right").name == "c"
            with pytest.raises(ClusterError, match=r"does not accept this user and password \(401\)") as err:
                identify(url, user="ann", password="wr0ng")
    assert "wr0ng" not in str(err.value)


def test_too_slow():
    import time

    with serving(stub_cluster({("GET", "/"): lambda: time.sleep(1) or OPENSEARCH})) as url:
        with pytest.raises(ClusterError, match="the request timed out"):
            identify(url, timeout=0.1)


@pytest.mark.parametrize("url", ["", "127.0.0.1:9200", "ftp://x", "http://", "http://[::1", "http://x:99999"])
def test_urls_that_are_none(url):
    with pytest.raises(UsageError, match="is not a cluster URL. Write it like"):
        ClusterOptions(url=url)


def test_secrets_are_never_shown():
    options = ClusterOptions(url="https://h:1", user="ann", password="s3cret")
    assert "s3cret" not in repr(options)
    with pytest.raises(UsageError) as err:
        ClusterOptions(url="http://ann:s3cret@h:1")
    assert "s3cret" not in str(err.value)
    with pytest.raises(UsageError, match="user 'ann' but no password"):
        ClusterOptions(url="http://h:1", user="ann")


@pytest.mark.parametrize(
    "url",
    [
        "htps://ann:s3cret@h:1",
        "http://ann:s3cret@h:99999",
        "http://ann:s3/cret@h:1",
        "ann:s3cret@h",
        "http://a:s3@cret@",
        "http://ann:s3?cret@h:1",
        "http://ann:s3#cret@h:1",
    ],
)
def test_secrets_in_a_url_that_cannot_be_parsed_are_the_reason_and_are_not_shown(url):
    for make, remedy in ((ClusterOptions, "--user and OPENSEARCH_PASSWORD"), (ScorerAddress, "with DARL_API_KEY")):
        with pytest.raises(UsageError, match="URL holds a user or a password. Pass") as err:
            make(url=url)
        assert remedy in str(err.value) and "s3" not in str(err.value)


def test_a_password_that_looks_like_a_port_is_one():
    """Parsed as host ann, port 12 and a path."""
    with pytest.raises(UsageError, match="http://h:1: the URL holds a user or a password"):
        ClusterOptions(url="http://ann:12/ss@h:1")


def test_a_password_of_any_letters():
    with serving(stub_cluster({("GET", "/"): OPENSEARCH})) as node:
        with serving(guarded_proxy(node, "jürgen", "päss€:wörd")) as url:
            assert identify(url, user="jürgen", password="päss€:wörd").name == "c"


def test_other_exceptions_pass():
    with pytest.raises(ZeroDivisionError), calling("http://x"):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("url", ["http://h:1", "https://h:1/prefix", "http://[::1]:9200"])
def test_the_url_in_messages(url):
    client = connect(ClusterOptions(url=url))
    assert Cluster(client).url == url


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://h", "http://h:9200"),
        ("http://h:80/x/", "http://h:80/x"),
        ("https://h", "https://h:443"),
        ("http://[::1]", "http://[::1]:9200"),
    ],
)
def test_a_url_without_a_port_means_the_clients_and_messages_show_it(url, where):
    options = ClusterOptions(url=url)
    assert options.where == Cluster(connect(options)).url == where


def test_a_proxy_of_the_environment_is_not_used_and_a_failure_says_so(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(stub_cluster({("GET", "/"): OPENSEARCH})) as url:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        assert identify(url).name == "c"
    with pytest.raises(ClusterError, match="check --url; the proxy that the environment names for it is not used for"):
        identify("http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ClusterError, match="check --url.$"):
        identify("http://127.0.0.1:9")


def nodes(plugins, modules=("search-pipeline-common", "lang-painless"), roles=("data",)):
    named = {"plugins": [{"name": n} for n in plugins], "modules": [{"name": n} for n in modules]}
    return {"nodes": {"a": {"name": "n1", "roles": list(roles)} | named}}


def test_a_cluster_without_ml_commons(tiny):
    seen = []
    stub = stub_cluster({("GET", "/"): OPENSEARCH, ("GET", "/_nodes/plugins"): nodes(["opensearch-knn"])}, seen)
    with serving(stub) as url, pytest.raises(ClusterError) as err:
        register(tiny, Cluster.open(ClusterOptions(url=url)), RegisterOptions())
    assert "node n1 does not have ML Commons (plugin opensearch-ml). Install the plugin on every node" in str(err.value)
    assert {method for method, _ in seen} == {"GET"}


def test_the_command_says_it_in_one_line(tiny):
    done = run_darl("register", str(tiny.path), "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == "darl: http://127.0.0.1:9: nothing is listening there. Start OpenSearch, or check --url.\n"
    done = run_darl(
        "register", str(tiny.path), "--mode", "local", "--with-query-id", OPENSEARCH_URL="http://127.0.0.1:9"
    )
    assert done.returncode == 2
    done = run_darl("search", "x", "--index", "i", "--bundle", str(tiny.path), "--url", "nonsense")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("reason", "times", "asked"),
    [("Data too large", 2, 3), ("Data too large", 99, 4), ("Error from remote service: busy", 1, 1)],
)
def test_a_cluster_that_is_full_is_asked_again(monkeypatch, reason, times, asked):
    """429 is answered before anything is done; what a scorer behind a connector answers is not the cluster's."""
    monkeypatch.setattr(calls, "WAITS", (0.0, 0.0, 0.0))
    seen = []

    class Full(Quiet):
        def do_PUT(self) -> None:
            self.body()
            seen.append(self.path)
            if len(seen) <= times:
                self.answer(429, json.dumps({"error": {"root_cause": [{"reason": reason}]}}).encode())
            else:
                self.answer(200, b'{"acknowledged": true}')

    with serving(Full) as url:
        cluster = Cluster.open(ClusterOptions(url=url))
        if times == 2:
            assert cluster.send("PUT", "/_search/pipeline/x", {}) == {"acknowledged": True}
        else:
            with pytest.raises(ClusterError, match=f"answered 429: {reason}"):
                cluster.send("PUT", "/_search/pipeline/x", {})
        cluster.client.close()
    assert len(seen) == asked and len(cluster.calls) == 1
