"""How this process multiplies: a choice by timing (`networks.lean.choices`), which the processes of one work must share."""

from __future__ import annotations

from textdiff.networks.fast_float32 import chosen
from textdiff.networks.lean.choices import make
from textdiff.networks.lean.products import bf16_pays, packing_serves

__all__ = ["make", "ways"]


def ways() -> dict[str, bool]:
    """What is chosen here, by names; `make` chooses the same in another process."""
    return {way.__name__: way() for way in (chosen, packing_serves, bf16_pays)}
