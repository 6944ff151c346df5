"""Holm's procedure: by hand, and what holds for any p-values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.stats.holm import holm


@given(p=st.lists(st.floats(0, 1), max_size=12))
def test_laws(p):
    adjusted = holm(dict(enumerate(p)))
    assert list(adjusted) == list(range(len(p))) and all(adjusted[i] >= p[i] for i in adjusted)
    assert all(a <= 1 for a in adjusted.values())
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted.values())
    if p:
        assert min(adjusted.values()) == pytest.approx(min(1.0, len(p) * min(p)))


def test_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({}) == {}
