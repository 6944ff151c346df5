"""The suite in several processes: which tests go together, and what is made once for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from darl_opensearch.io.lock import hold_lock

NODE = "tests/opensearch"
LONGEST = (  # files that take a minute or more, in this order; the others follow
    NODE,
    "tests/trainer/test_train.py",
    "tests/trainer/test_stages.py",
    "tests/cycle/test_killed.py",
    "tests/trainer/test_distributed.py",
    "tests/pool/test_pool_ray.py",
    "tests/docker/test_images.py",
    "tests/export/test_export_graph.py",
    "tests/trainer/test_distillation.py",
    "tests/compat/test_onnxruntime_1_16.py",
    "tests/cycle/test_cycle.py",
    "tests/trainer/test_backbones.py",
    "tests/export/test_export_bundle.py",
)


class ByFile(LoadScopeScheduling):
    """A file's tests run in one process, and all that need the real node do: there is one of it."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False  # as collected: the longest first, see `order`
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return NODE if nodeid.startswith(NODE) else nodeid.partition("::")[0]


def order(items: list[pytest.Item]) -> None:
    """Put what takes longest first, so that the processes end together."""
    places = {name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return places.get(NODE if file.startswith(NODE) else file, len(LONGEST))

    items.sort(key=place)


def make_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any], load: Callable[[Path], Any]
) -> Any:
    """Make a folder in the process that asks first; the others load what it holds."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with hold_lock(root / f"{name}.lock", "another process makes it", wait_s=500):
        if done.exists():
            return load(folder)
        folder.mkdir()
        made = make(folder)
        done.touch()
        return made
