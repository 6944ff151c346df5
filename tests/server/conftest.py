"""Fixtures of the server's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def client(tiny):
    from server_harness import running

    with running(tiny) as opened:
        yield opened
