"""Chinese verse: forms, sounds, tones and rhymes, and what may be asked of them."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """The names that this module had in version 0.1; they stand in `forms` and `sounds` now."""
    if not name.startswith("_"):
        for part in ("forms", "sounds"):
            module = importlib.import_module(f"textdiff.verse.{part}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
