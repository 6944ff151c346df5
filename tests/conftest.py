"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A bundle that scores by shared words; read-only: copy it before changing it."""
    from support import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def opensearch_url() -> Iterator[str]:
    """A real OpenSearch node with ML Commons, its own for this run.

    ``DARL_TEST_OPENSEARCH_URL`` names one that runs already. Without Java 21+ and Maven or Docker the tests
    that ask for it are skipped, unless ``DARL_REQUIRE_OPENSEARCH=1``: then they fail.
    """
    from darl_opensearch.node import node_possible, running_node

    if url := os.environ.get("DARL_TEST_OPENSEARCH_URL"):
        yield url
        return
    possible = node_possible()
    if not possible:
        reason = f"no real OpenSearch node: {possible.reason}"
        if os.environ.get("DARL_REQUIRE_OPENSEARCH") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with running_node() as node:
        yield node.url


@pytest.fixture(scope="session")
def judgments_folder() -> Path:
    """The folder of real judgments, named by ``DARL_DATA``."""
    folder = os.environ.get("DARL_DATA")
    if not folder:
        pytest.skip("DARL_DATA is not set: real judgments are not here")
    return Path(folder)
