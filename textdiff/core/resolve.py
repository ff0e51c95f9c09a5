"""From a name to the object: for the literal tables, and for what a user names on the command line."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from textdiff.core.errors import AskedError


def attribute(path: str) -> Any:
    """The object at "module:attribute"; ValueError if there is none."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise AskedError(
            f"{path!r} names no object ({error}); write it as 'module:attribute', importable from here"
        ) from error


def unknown(kind: str, name: object, known: Iterable[str]) -> AskedError:
    """The error for a name that is in no table."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return AskedError(f"unknown {kind} {name!r}; known are {', '.join(names)}{hint}")
