"""Values that come from files: none is used before it has the right type and a size that can be."""

from __future__ import annotations

from typing import Any

from common.errors import StoreError, bad_value

MAX_NUMBER = 99_999_999  # of a record or tombstone: the names of their files have eight digits
MAX_GAP = 100_000  # more missing numbers in a row than records that can have been lost
MAX_BYTES = 1 << 44  # of one file, and rows of one segment; no sum of these is too large for the index


def whole(what: str, value: Any, low: int = 0, high: int = MAX_BYTES) -> int:
    """`value`, a whole number within low .. high.

    Raises:
        StoreError: naming `what` if it is something else.
    """
    if type(value) is not int or not low <= value <= high:  # to Python, True is a whole number
        raise StoreError(bad_value(what, value, f"a whole number, {low} .. {high}"))
    return value


def real(what: str, value: Any) -> float:
    """`value`, a finite number, as a float; errors as in `whole`."""
    if type(value) not in (int, float) or not abs(value) <= 1e300:  # NaN is not
        raise StoreError(bad_value(what, value, "a finite number"))
    return float(value)


def text(what: str, value: Any) -> str:
    """`value`, a text; errors as in `whole`."""
    if type(value) is not str:
        raise StoreError(bad_value(what, value, "a text"))
    return value
