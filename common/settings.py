"""How a setting of the configuration is declared: its default, meaning, bound, and whether a resume may change it."""

from __future__ import annotations

import dataclasses
from typing import Any


def _setting(default: Any, doc: str, resume: str, allowed: str) -> Any:
    metadata = {"doc": doc, "resume": resume, "allowed": allowed}
    if isinstance(default, (list, dict)):
        kind = type(default)
        return dataclasses.field(default_factory=lambda: kind(default), metadata=metadata)
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def fixed(default: Any, doc: str, allowed: str = "") -> Any:
    """A setting that a resumed run must keep. `allowed` is a bound such as "> 0" or "a|b|c"."""
    return _setting(default, doc, "fixed", allowed)


def free(default: Any, doc: str, allowed: str = "") -> Any:
    """A setting that a resumed run may change."""
    return _setting(default, doc, "free", allowed)
