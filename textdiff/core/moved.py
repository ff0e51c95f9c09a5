"""Modules that stood elsewhere in version 0.1: their old names import the new ones for one version, with a warning.

A finder at the end of `sys.meta_path` sees only the modules that no other finder knows, so a name that still exists costs
nothing.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # typing and importlib.abc take longer to import than the rest of `import textdiff`
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import ModuleType
    from typing import Any
else:
    Loader = object

FOLDERS = {  # new folder -> the modules that moved there, by their old names below textdiff
    "core": "contracts rng levels schedules predictions bridges likelihood resolve samplers.loop",
    "processes": "degradations",
    "samplers": "ode",
    "networks": "predictors.folder predictors.images predictors.masked_lm predictors.reading predictors.causal "
    "predictors.denoiser predictors.fast_float32 tokenization",
    "shaping": "predictors.analytic predictors.bins predictors.upsample predictors.skips",
    "verse": "script checker",
    "data": "records corpus image_data",
    "show": "trace watching heat pictures animation mosaic",
    "pipeline": "canvas images",
    "pipeline.revision": "refine pipeline.refine",
    "measure": "counts hf_metrics image_report bench",
}
MOVED = {
    f"textdiff.{old}": f"textdiff.{new}.{old.rpartition('.')[2]}"
    for new, names in FOLDERS.items()
    for old in names.split()
}
MOVED |= {
    "textdiff.predictors.shaping": "textdiff.shaping.tokens",
    "textdiff.verify_values": "textdiff.verify.values",
    "textdiff.verify_laws": "textdiff.verify.laws",
}
RENAMED = {
    "metrics": "poems",
    "report": "poem_report",
    "image_metrics": "images",
}  # in measure, under both their old names
MOVED |= {
    f"textdiff.{where}{old}": f"textdiff.measure.{new}" for where in ("", "measure.") for old, new in RENAMED.items()
}
DIVIDED = {  # modules that were divided -> where their names stand now
    "textdiff.constraints": ("textdiff.verse.law", "textdiff.verse.constrained", "textdiff.verse.rhymes"),
    "textdiff.verse.constraints": ("textdiff.verse.law", "textdiff.verse.constrained", "textdiff.verse.rhymes"),
    "textdiff.prosody": ("textdiff.verse.prosody", "textdiff.verse.pattern"),
}
NEW_NAMES = {"law": "Law.of", "Restricted": "RestrictedPrediction", "Rhymes": "RhymeTable", "MEETS": "MARKS"}
EMPTY = "textdiff.predictors"  # the folder is gone, and only its modules have new names


class OldNames(Loader):
    """Finds the modules of `MOVED` under their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = fullname in MOVED or fullname in DIVIDED or fullname == EMPTY
        return ModuleSpec(fullname, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual kind of module."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        if old == EMPTY:
            return
        if old in DIVIDED:
            news = " and ".join(DIVIDED[old])
            warnings.warn(f"{old} is now {news}; the old name goes in version 0.3", DeprecationWarning, stacklevel=2)
            vars(module)["__getattr__"] = lambda name: _found(DIVIDED[old], name)
            return
        warnings.warn(f"{old} is now {MOVED[old]}; the old name goes in version 0.3", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(MOVED[old])


def _found(modules: Sequence[str], name: str) -> Any:
    """The first of `modules` that has a name, perhaps under its new name, gives it."""
    from operator import attrgetter

    for module in modules:
        place = importlib.import_module(module)
        if hasattr(place, NEW_NAMES.get(name, name).partition(".")[0]):
            return attrgetter(NEW_NAMES.get(name, name))(place)
    raise AttributeError(f"{name!r} stands in none of {', '.join(modules)}")


def renamed(old: str, new: str) -> None:
    """Warns of an argument that has another name now."""
    warnings.warn(f"{old} is now {new}; the old name goes in version 0.3", DeprecationWarning, stacklevel=4)


def install() -> None:
    """Make the old names importable."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
