"""From "module:attribute" to the object: for the literal tables, and for what a user names on the command line."""

from __future__ import annotations

import importlib
from typing import Any


def attribute(path: str) -> Any:
    """The object at "module:attribute"; ValueError if there is none."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path!r} names no object ({error}); write it as 'module:attribute', importable from here"
        ) from error
