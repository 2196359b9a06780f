"""Fast JSON says what the standard library says, also of what the fast parser refuses."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay import fast_json

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))


@given(VALUES.filter(lambda v: "Infinity" not in json.dumps(v)))
def test_both_read_what_the_other_writes(value: object) -> None:
    assert fast_json.loads(json.dumps(value)) == value
    assert json.loads(fast_json.dumps(value)) == value
    assert fast_json.loads(fast_json.dumps(value).encode()) == value
    assert json.loads(fast_json.dumps_indented(value)) == value


def test_what_the_fast_parser_refuses_is_read_all_the_same() -> None:
    assert math.isnan(fast_json.loads("NaN"))
    assert fast_json.loads('"\\ud800"') == "\ud800"
    assert json.loads(fast_json.dumps({"text": "\ud800", "number": 2**70})) == {"text": "\ud800", "number": 2**70}
    assert json.loads(fast_json.dumps_indented({"number": 2**70})) == {"number": 2**70}
    with pytest.raises(ValueError, match="Expecting"):
        fast_json.loads("{x")
