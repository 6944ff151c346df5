"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.workers import ByFile, make_once, order

if TYPE_CHECKING:
    from tests.helpers.commands import Said

ROOT = Path(__file__).parents[1]
sys.dont_write_bytecode = False  # else each process that a test starts compiles torch anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ |= {  # for the processes that tests start, too
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",  # before huggingface_hub is imported: no test may ask a hub
    "OPENSEARCH_JAVA_OPTS": "-XX:TieredStopAtLevel=1",  # a node of minutes: half the processor time of a start
    "HAYSTACK_TELEMETRY_ENABLED": "False",  # before haystack is imported: no test may report to anyone
    "LANGSMITH_TRACING": "false",
    "OMP_NUM_THREADS": "1",  # before torch is imported: for tiny tensors a second thread costs time
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order(items)


@pytest.fixture
def darl(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run ``darl`` in this process, with no settings from outside; gives exit code, stdout and stderr."""
    from tests.helpers.commands import run_main

    for name in [name for name in os.environ if name.startswith(("DARL_", "OPENSEARCH_"))]:
        monkeypatch.delenv(name)
    return run_main


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A bundle that scores by shared words; read-only: copy it before changing it."""
    from tests.helpers.bundles import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT whose vocabulary is the sample's."""
    from tests.helpers.trained import write_checkpoint

    return make_once(tmp_path_factory, "checkpoint", write_checkpoint, lambda folder: folder)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path):
    """Run and bundle of the random BERT; read-only: copy before changing."""
    from tests.helpers.trained import load_trained, train_and_export, write_project

    def make(folder: Path):
        return train_and_export(folder, write_project(folder / "data", str(checkpoint)))

    return make_once(tmp_path_factory, "small", make, load_trained)


@pytest.fixture(scope="session")
def small_cross(tmp_path_factory: pytest.TempPathFactory):
    """Run and bundle of a random BERT that reads query and item together; read-only: copy before changing."""
    from tests.helpers.joint_bases import write_classifier
    from tests.helpers.trained import load_trained, train_and_export, write_project

    def make(folder: Path):
        base = write_classifier(folder / "base", "bert")
        return train_and_export(folder, write_project(folder / "data", str(base), model={"backbone": "cross"}))

    return make_once(tmp_path_factory, "small_cross", make, load_trained)


@pytest.fixture(scope="session")
def minilm_bundle(tmp_path_factory: pytest.TempPathFactory):
    """Run and bundle of the packaged all-MiniLM-L6-v2."""
    from tests.helpers.trained import load_trained, train_and_export, write_project

    def make(folder: Path):
        config = write_project(
            folder / "data", "packaged:all-MiniLM-L6-v2", name="minilm", queries=12, traffic=40, ood={"depth": 5},
            model={"query_cap": 32, "item_cap": 96},
        )  # fmt: skip
        return train_and_export(folder, config)

    return make_once(tmp_path_factory, "minilm", make, load_trained)


@pytest.fixture(scope="session")
def judgments_folder() -> Path:
    """The folder of real judgments, named by ``DARL_DATA``."""
    folder = os.environ.get("DARL_DATA")
    if not folder:
        pytest.skip("DARL_DATA is not set: real judgments are not here")
    return Path(folder)


@pytest.fixture(scope="module")
def ray():
    """A Ray of two cores in this process. Not below pytest's folder: paths of sockets are short."""
    folder = tempfile.mkdtemp(prefix="darl-ray-")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
        object_store_memory=100 << 20,
    )  # fmt: skip
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def chromium():
    """A running browser. Of one file, not of the session: its driver keeps an event loop, and others have their own."""
    from tests.helpers.browser import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture
def window(chromium):
    """Open windows; one that wrote an error, or asked for more than its page, fails the test."""
    from tests.helpers.browser import Window

    opened = []

    def open_window(**options) -> Window:
        opened.append(Window(chromium, **options))
        return opened[-1]

    yield open_window
    for one in opened:
        one.close()
    assert [one.errors for one in opened] == [[]] * len(opened)
