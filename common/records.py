"""Typed records from JSON: frozen dataclasses of numbers, texts, tuples and further records."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from common.errors import ServofleetError, bad_value

T = TypeVar("T")


def decode_record(cls: type[T], raw: object, field: str, error: type[ServofleetError]) -> T:
    """An instance of the dataclass `cls` from what `json.loads` made of `dataclasses.asdict` of one.

    Args:
        cls: dataclass whose annotations are int, float, str, bool, Literal, tuple, another dataclass, or one of these
            or None. Every field must be there: a record whose fields were lost is not read as a shorter one.
        raw: parsed JSON.
        field: name of the record in error messages.
        error: class of the errors raised.

    Raises:
        ServofleetError: of the class `error`, naming the field that is missing, unknown, of another type or not finite.
    """
    if not isinstance(raw, Mapping):
        raise error(bad_value(field, raw, "a JSON object"))
    hints = _hints(typing.cast(Any, cls))
    unknown = sorted(set(raw) - set(hints), key=str)
    if unknown:
        raise error(bad_value(f"{field}.{unknown[0]}", raw[unknown[0]], f"no such field; known are {sorted(hints)}"))
    values = {name: _decode(hints[name], raw[name], f"{field}.{name}", error) for name in hints if name in raw}
    missing = [name for name in hints if name not in values]
    if missing:
        raise error(f"{field}.{missing[0]} is missing")
    return cls(**values)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _decode(hint: Any, raw: object, field: str, error: type[ServofleetError]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if raw is None:
            return None
        return _decode(next(a for a in args if a is not type(None)), raw, field, error)
    if dataclasses.is_dataclass(hint):
        return decode_record(typing.cast(type, hint), raw, field, error)
    if origin is Literal:
        if raw not in args:
            raise error(bad_value(field, raw, f"one of {args}"))
        return raw
    if origin is tuple:
        if not isinstance(raw, list):
            raise error(bad_value(field, raw, "a list"))
        items = [args[0]] * len(raw) if args[-1] is Ellipsis else list(args)
        if len(items) != len(raw):
            raise error(bad_value(field, raw, f"{len(items)} entries"))
        return tuple(_decode(h, r, f"{field}[{i}]", error) for i, (h, r) in enumerate(zip(items, raw, strict=True)))
    return _scalar(hint, raw, field, error)


def _scalar(hint: type, raw: object, field: str, error: type[ServofleetError]) -> object:
    number = isinstance(raw, (int, float)) and not isinstance(raw, bool)
    if hint is float and number:
        try:
            value = float(typing.cast(float, raw))
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return value
    elif isinstance(raw, hint) and (hint is not int or number):
        return raw
    allowed = {float: "a finite number", int: "a whole number", str: "text", bool: "true or false"}
    raise error(bad_value(field, raw, allowed[hint]))
