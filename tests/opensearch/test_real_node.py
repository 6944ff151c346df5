"""The real thing: OpenSearch with ML Commons, from Maven; the fixture sees that its last process goes."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.opensearch.conftest import NODE_VERSION

pytestmark = pytest.mark.opensearch


def test_a_real_node_comes_and_goes(node) -> None:
    assert node.version == NODE_VERSION
    assert {"opensearch-ml", "opensearch-knn", "opensearch-neural-search"} <= set(node.plugins)
    settings = _get(f"{node.url}/_nodes/settings?flat_settings=true")
    (one,) = settings["nodes"].values()
    if node.engine == "java":
        assert one["settings"]["network.host"] == "127.0.0.1"
        (running,) = _get(f"{node.url}/_nodes/process")["nodes"].values()
        assert running["process"]["id"] == node.pid
        assert Path(f"/proc/{node.pid}").stat().st_uid != 0
    regexes = one["settings"]["plugins.ml_commons.trusted_connector_endpoints_regex"]
    assert str(regexes).strip("[']").startswith("^http://(127")


def _get(url: str):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
