"""Where and how fast the encoder computes: device, reduced precision, compilation. What it learns stays the same."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from common.errors import ConfigError, bad_value

_LOG = logging.getLogger("servofleet.learner")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str) -> str:
    """Either "cpu" or "cuda", for ``learner.device``.

    Raises:
        ConfigError: if a GPU is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(bad_value("learner.device", wanted, "auto or cpu: torch sees no GPU on this machine"))
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which the encoder computes; none for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


@functools.cache
def why_not_compile(device: str) -> str:
    """Why torch.compile does not work here, "" if it does: a few numbers are compiled, forward and backward."""
    try:
        x = torch.ones(4, device=device, requires_grad=True)
        # The graph's code must be its own: one that another process has compiled and kept would prove nothing here.
        torch.compile(lambda v: (v.sin() * 3.25).relu().sum(), fullgraph=True)(x).backward()
    except (RuntimeError, OSError) as e:
        # Dynamo's, Inductor's and the compiler's errors are all RuntimeErrors; the innermost says what is wrong.
        inner = getattr(e, "inner_exception", None) or e
        return " ".join(f"{type(inner).__name__}: {inner}".split())[:300]
    return ""


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`function` compiled; the function itself, and a warning that says so once, where this machine cannot compile."""
    if why := why_not_compile(device.type):
        _say_once(why)
        return function
    return torch.compile(function)


@functools.cache
def _say_once(why: str) -> None:
    _LOG.warning("learner.compile: this machine cannot compile (%s); the encoder runs uncompiled", why)
