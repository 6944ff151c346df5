"""Fixtures that several test folders share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.commands import Said

ROOT = Path(__file__).parents[1]
pytest.register_assert_rewrite("tests.helpers")
os.environ |= {  # for the processes that tests start, too
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",  # before huggingface_hub is imported: no test may ask a hub
    "OMP_NUM_THREADS": "1",  # before torch is imported: for tiny tensors a second thread costs time
}


@pytest.fixture
def darl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run ``darl`` in this process; gives exit code, stdout and stderr."""
    from tests.helpers.commands import run_main

    return functools.partial(run_main, monkeypatch, capsys)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A bundle that scores by shared words; read-only: copy it before changing it."""
    from tests.helpers.bundles import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT whose vocabulary is the sample's."""
    from tests.helpers.trained import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path):
    """Run and bundle of the random BERT; read-only: copy before changing."""
    from tests.helpers.trained import train_and_export, write_project

    folder = tmp_path_factory.mktemp("small")
    return train_and_export(folder, write_project(folder / "data", str(checkpoint)))


@pytest.fixture(scope="session")
def minilm_bundle(tmp_path_factory: pytest.TempPathFactory):
    """Run and bundle of the packaged all-MiniLM-L6-v2."""
    from tests.helpers.trained import train_and_export, write_project

    folder = tmp_path_factory.mktemp("minilm")
    config = write_project(
        folder / "data", "packaged:all-MiniLM-L6-v2", name="minilm", queries=20, ood={"depth": 5},
        model={"query_cap": 32, "item_cap": 96},
    )  # fmt: skip
    return train_and_export(folder, config)


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
