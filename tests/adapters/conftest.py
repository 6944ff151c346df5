"""One opened reranker for all adapters."""

from __future__ import annotations

import pytest

from darl_opensearch import Reranker, adapters
from tests.helpers.adapted import without_torch
from tests.helpers.bundles import tiny_bundle


@pytest.fixture(scope="package")
def bundle(tmp_path_factory):
    """Of whose queries some are out of distribution."""
    return tiny_bundle(tmp_path_factory.mktemp("adapters") / "bundle", alpha=0.45)


@pytest.fixture(scope="package")
def reranker(bundle):
    with without_torch():
        for name in adapters.__all__:
            getattr(adapters, name)
    with Reranker(bundle) as opened:
        yield opened
