"""Exact laws by enumeration: what every sampler is held to."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """The names of `tokens`, which was this module in version 0.1."""
    if not name.startswith("_"):
        return getattr(importlib.import_module("textdiff.verify.tokens"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
