"""Numbers and text that ML Commons reads without a fault."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.server.fixed_json import dumps, format_number

PLAIN = re.compile(r"-?\d{1,10}\.\d{1,6}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_short_fixed_point_and_near(value):
    text = format_number(value)
    assert PLAIN.fullmatch(text) and len(text) <= 18 and text != "-0.0"
    assert abs(Decimal(text) - Decimal(min(max(value, -1e9), 1e9))) <= Decimal("0.0000005001")


@given(st.floats(0, 1, width=32))
def test_a_score_parses_to_itself_within_half_a_millionth(value):
    assert float(format_number(np.float32(value))) == pytest.approx(value, abs=5.1e-7)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (0.0, "0.0"),
        (-0.0, "0.0"),
        (1e-6, "0.000001"),
        (4e-7, "0.0"),
        (-1e-9, "0.0"),
        (1e30, "1000000000.0"),
    ],
)
def test_what_numbers_look_like(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_written(value):
    with pytest.raises(ValueError, match="not a JSON number"):
        format_number(value)


@given(JSON)
def test_everything_else_is_ascii_json(value):
    text = dumps(value)
    assert text.isascii() and json.loads(text) == json.loads(json.dumps(value))


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError, match="set is not JSON"):
        dumps({"a": {1}})
