"""Exact laws by enumeration: what every sampler is held to.

    for row in textdiff.verify():        # the walk over the tables of processes and samplers: `walk.verify`
        print(row.process, row.sampler, row.total_variation, row.ok)

`verify_laws` in `laws` has the identities that are no law of a sampler.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

# What this package offers, and in which of its files it stands; nothing is imported before it is asked for.
NAMES = {
    "verify": "walk",
    "Row": "rows",
    "verify_laws": "laws",
    "Law": "laws",
    "Enumerating": "enumeration",
    "enumerate_draws": "enumeration",
    "Space": "spaces",
    "ExactPredictor": "spaces",
    "corrupted_law": "spaces",
    "exact_bound": "spaces",
    "total_variation": "spaces",
    "chain_law": "chains",
}


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return getattr(importlib.import_module(f"textdiff.verify.{NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Callable(ModuleType):
    """This package, which can be called: `textdiff.verify(...)` is `walk.verify(...)`."""

    def __call__(self, *args: Any, **more: Any) -> Any:
        return importlib.import_module("textdiff.verify.walk").verify(*args, **more)


sys.modules[__name__].__class__ = _Callable
