"""Fixtures of the server's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def client(tiny):
    from tests.helpers.server import running

    with running(tiny) as opened:
        yield opened
