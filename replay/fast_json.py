"""JSON of a million episodes: read and written by orjson, and by the standard library what orjson refuses."""

from __future__ import annotations

import json
from typing import Any

import orjson


def loads(text: str | bytes) -> Any:
    """What `json.loads` gives, but numbers that do not fit 64 bits may become floats.

    Raises:
        ValueError: if it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def dumps(value: Any) -> str:
    """JSON text; errors as `json.dumps`."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # numbers of more than 64 bits, text that is no Unicode
        return json.dumps(value)


def dumps_indented(value: Any) -> bytes:
    """JSON for people to look at; errors as `json.dumps`. The standard library indents in Python, 100 times slower."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2)
    except TypeError:
        return json.dumps(value, indent=2).encode()
