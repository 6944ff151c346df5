"""Fields of configurations, and the bound that most of their numbers have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from darl_opensearch.errors import UsageError
from darl_opensearch.fields import check_least, option, parameters, required


@dataclass(frozen=True, kw_only=True)
class Table:
    name: str = required("what it is called")
    port: int = option(8091, "where it listens", least=0)
    params: Mapping[str, Any] = parameters("its parameters")


def test_fields():
    one, other = Table(name="a"), Table(name="a")
    assert (one.port, one.params) == (8091, {}) and one.params is not other.params
    assert [dict(field.metadata) for field in dataclasses.fields(Table)] == [
        {"help": "what it is called"}, {"help": "where it listens", "least": 0}, {"help": "its parameters"},
    ]  # fmt: skip
    with pytest.raises(TypeError, match="name"):
        Table()


@pytest.mark.parametrize("port", [0, 1, 0.5])
def test_numbers_at_the_bound_and_above(port):
    check_least("serve", Table(name="a", port=port), 0, "port")


@pytest.mark.parametrize("port", [-1, -1e-9, float("inf"), float("-inf"), float("nan")])
def test_numbers_below_it_or_not_finite(port):
    with pytest.raises(UsageError) as caught:
        check_least("serve", Table(name="a", port=port), 0, "port")
    assert str(caught.value) == f"[serve] port is {port}. Give 0 or more."
