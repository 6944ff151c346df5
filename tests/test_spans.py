"""Spans of time: one way to write them, wherever one is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from darl_opensearch.spans import ago, parse_span


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("4w", timedelta(days=28)),
        ("0h", timedelta()),
        ("999999w", timedelta(days=7 * 999_999)),
    ],
)
def test_spans(text, span):
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "7", "d", "d7", "7y", "7 d", "-3d", "1.5h", "1000000m", "7d ", "7D"])
def test_no_spans(text):
    assert parse_span(text) is None


def test_ago_ends_now():
    before = datetime.now(UTC)
    found = ago(timedelta(days=7))
    assert before <= found + timedelta(days=7) <= datetime.now(UTC)
    assert ago(timedelta()) >= before


def test_no_bound_and_one_before_the_first_year_are_from_the_beginning():
    assert ago(None) is None
    assert ago(timedelta(days=366 * datetime.now(UTC).year)) is None
