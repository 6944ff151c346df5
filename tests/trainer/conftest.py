"""Checkpoints to start from: the real one, loaded once, and random ones of each architecture."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def source():
    """The packaged all-MiniLM-L6-v2."""
    from trainer.models.sources import load_encoder

    return load_encoder("packaged:all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def minilm(source):
    """An untrained split reranker from it, evaluating; do not change it."""
    from trainer.models import SplitReranker

    return SplitReranker.from_source(source, (0.0, 1.0, 3.0), query_cap=64, item_cap=192).eval()


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> dict[str, Path]:
    """A tiny random checkpoint of each supported architecture, as ``save_pretrained`` writes it."""
    from tests.helpers.training_project import write_base

    folder = tmp_path_factory.mktemp("bases")
    return {kind: write_base(folder / kind, kind) for kind in ("bert", "roberta", "xlm-roberta")}
