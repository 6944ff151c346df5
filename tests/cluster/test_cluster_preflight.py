"""Preflight says which setting stands in the way, and changes it only when told to."""

from __future__ import annotations

import pytest

from darl_opensearch.cluster import Cluster
from darl_opensearch.cluster.preflight import ML, PRIVATE, TRUSTED, endpoint_regex, is_private, preflight
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError
from tests.helpers.cluster import recording
from tests.helpers.http import serving, stub_cluster

GOOD = {
    ML + "allow_registering_model_via_local_file": "true",
    ML + "local_model.enabled": "true",
    ML + "only_run_on_ml_node": "false",
    ML + "remote_inference.enabled": "true",
    PRIVATE: "true",
    TRUSTED: ["^https://api\\.example\\.com/.*$", "^http://127\\.0\\.0\\.1:.*$"],
}
URL = "http://127.0.0.1:8091/v1/rerank"
NODES = {
    "name": "n1",
    "roles": ["data"],
    "plugins": [{"name": "opensearch-ml"}, {"name": "opensearch-neural-search"}],
    "modules": [{"name": "search-pipeline-common"}, {"name": "lang-painless"}],
}


class Settings:
    """A cluster that keeps persistent settings."""

    def __init__(self, defaults=GOOD, version="3.6.0", node=NODES, transient=None, deaf=False):
        self.state = {"defaults": dict(defaults), "persistent": {}, "transient": dict(transient or {})}
        self.seen, connection = recording()
        answers = {
            ("GET", "/"): {"version": {"distribution": "opensearch", "number": version}},
            ("GET", "/_nodes/plugins"): {"nodes": {"a": node}},
            ("GET", "/_cluster/settings"): lambda: self.state,
            ("PUT", "/_cluster/settings"): self.put,
        }
        self.deaf, self.connection, self.handler = deaf, connection, stub_cluster(answers)

    def put(self):
        import json

        if not self.deaf:
            self.state["persistent"] |= json.loads(self.seen[-1][2])["persistent"]
        return {}

    def check(self, mode, **options):
        with serving(self.handler) as url:
            cluster = Cluster.open(ClusterOptions(url=url), connection_class=self.connection)
            try:
                return preflight(cluster, mode, **options)
            finally:
                cluster.client.close()


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_all_is_well(mode):
    settings = Settings()
    assert settings.check(mode, scorer_url=URL).changed == ()
    assert {method for method, _, _ in settings.seen} == {"GET"}


@pytest.mark.parametrize(
    ("mode", "name", "value", "why"),
    [
        (
            "local",
            ML + "allow_registering_model_via_local_file",
            "false",
            "must be true (the model is uploaded in chunks)",
        ),
        ("local", ML + "local_model.enabled", "false", "must be true"),
        ("local", ML + "only_run_on_ml_node", "true", "must be false (no node has the role ml)"),
        ("connector", ML + "remote_inference.enabled", "false", "must be true"),
        ("connector", PRIVATE, "false", "must be true (127.0.0.1 is a private address)"),
        ("connector", TRUSTED, ["^https://api\\.example\\.com/.*$"], "lacks ^http://127\\.0\\.0\\.1:8091/.*$"),
    ],
)
def test_a_setting_in_the_way(mode, name, value, why):
    settings = Settings(GOOD | {name: value})
    with pytest.raises(ClusterError) as err:
        settings.check(mode, scorer_url=URL)
    assert f"{name} " in str(err.value) and why in str(err.value)
    assert "Set it, or run this again with --apply-settings" in str(err.value)
    assert {method for method, _, _ in settings.seen} == {"GET"}
    done = settings.check(mode, scorer_url=URL, apply_settings=True)
    assert [setting.name for setting in done.changed] == [name]
    written = settings.state["persistent"]
    assert written.keys() == {name}
    if name == TRUSTED:
        assert written[name] == [*value, endpoint_regex(URL)]  # what was trusted stays trusted


def test_an_ml_node_runs_the_model():
    settings = Settings(GOOD | {ML + "only_run_on_ml_node": "true"}, node=NODES | {"roles": ["ml"]})
    assert settings.check("local").changed == ()


def test_a_setting_that_this_version_does_not_have():
    settings = Settings({k: v for k, v in GOOD.items() if k != ML + "remote_inference.enabled"})
    assert settings.check("connector", scorer_url=URL).changed == ()


def test_a_transient_setting_comes_first():
    settings = Settings(transient={ML + "only_run_on_ml_node": "true"})
    with pytest.raises(ClusterError, match="was set, but is still true. Remove the transient setting"):
        settings.check("local", apply_settings=True)


@pytest.mark.parametrize(
    ("version", "mode", "message"),
    [
        ("2.18.0", "connector", "this is OpenSearch 2.18.0, but --mode connector requires 2.19. Upgrade it"),
        ("2.19.1", "local", "--mode local requires 3.0. Use --mode connector"),
    ],
)
def test_too_old(version, mode, message):
    with pytest.raises(ClusterError, match=message):
        Settings(version=version).check(mode, scorer_url=URL)


def test_old_enough():
    assert Settings(version="2.19.0").check("connector", scorer_url=URL).version == "2.19.0"
    assert Settings(version="3.9.0-SNAPSHOT").check("local").changed == ()


@pytest.mark.parametrize(
    "missing", ["opensearch-ml", "opensearch-neural-search", "search-pipeline-common", "lang-painless"]
)
def test_something_is_not_installed(missing):
    kept = {key: [entry for entry in NODES[key] if entry["name"] != missing] for key in ("plugins", "modules")}
    with pytest.raises(ClusterError, match=f"node n1 does not have .*{missing}"):
        Settings(node=NODES | kept).check("local")


def test_private_addresses():
    assert all(map(is_private, ["127.0.0.1", "10.1.2.3", "::1", "localhost", "scorer-that-is-nowhere.invalid"]))
    assert not is_private("8.8.8.8")


@pytest.mark.parametrize("url", ["https://h.example/rerank", "http://[::1]:8091/v1/rerank", URL])
def test_an_endpoint_is_trusted_alone(url):
    import re

    pattern = endpoint_regex(url)
    assert re.fullmatch(pattern, url)
    assert not re.fullmatch(
        pattern, url.replace("h.example", "hxexample").replace("8091", "80911") + "\n" if "x" in url else ""
    )
