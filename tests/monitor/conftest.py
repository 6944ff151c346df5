"""Fixtures of the monitor's tests."""

from __future__ import annotations

import pytest

from tests.helpers.drift import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A bundle, and the traffic that it sees."""
    return World(tmp_path_factory.mktemp("world") / "bundle")
