"""Modules that stood elsewhere in version 0.1: their old names import the new ones for one version, with a warning.

A finder at the end of `sys.meta_path` is asked only for modules that nothing else has found, so a name that still exists costs
nothing.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FOLDERS = {  # new folder -> the modules that moved there, by their old names below textdiff
    "core": "contracts rng levels schedules predictions bridges likelihood resolve samplers.loop",
    "processes": "degradations",
    "samplers": "ode",
    "networks": "predictors.folder predictors.images predictors.masked_lm predictors.reading predictors.causal "
    "predictors.denoiser predictors.fast_float32 tokenization",
    "shaping": "predictors.analytic predictors.bins predictors.upsample predictors.skips",
    "verse": "script checker prosody constraints",
    "data": "records corpus image_data",
    "show": "trace watching heat pictures animation mosaic",
    "pipeline": "canvas images refine",
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
EMPTY = "textdiff.predictors"  # the folder is gone, and only its modules have new names


class OldNames(MetaPathFinder, Loader):
    """Finds the modules of `MOVED` under their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in MOVED or fullname == EMPTY else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        if old == EMPTY:
            return
        warnings.warn(f"{old} is now {MOVED[old]}; the old name goes in version 0.3", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(MOVED[old])


def install() -> None:
    """Make the old names importable."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
