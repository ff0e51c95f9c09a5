"""Chinese verse: forms, sounds, tones and rhymes, and what may be asked of them."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """The names of `forms`, which was this module in version 0.1."""
    if not name.startswith("_"):
        return getattr(importlib.import_module("textdiff.verse.forms"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
