"""The trained bundles of :mod:`trained_support`, and the command in this process."""

from __future__ import annotations

import functools
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may ask a hub

import pytest
from trained_support import checkpoint, minilm_bundle, one_thread, run_main, small  # noqa: F401  fixtures


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def darl(monkeypatch, capsys):
    """Run ``darl`` in this process; gives exit code, stdout and stderr."""
    return functools.partial(run_main, monkeypatch, capsys)
