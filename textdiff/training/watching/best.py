"""Which evaluation of a run was the best: it decides when a run stops early, and which weights are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run so far."""

    step: int
    since: int  # evaluations after it, none of which was better


def best(history: Sequence[Mapping[str, Any]], shares: Mapping[str, float]) -> Best | None:
    """The best of the evaluations in Trainer's `log_history`; None where there is no evaluation yet.

    An evaluation is judged by the bounds of its processes (the losses of those that have no bound), each weighted by its share of
    the steps.  A figure that is not finite is worse than all others; of equal evaluations the first is the best.
    """
    figures = {entry["step"]: figure for entry in history if (figure := _figure(entry, shares)) is not None}
    if not figures:
        return None
    step = min(figures, key=lambda step: (figures[step], step))
    return Best(step, sum(later > step for later in figures))


def settled(history: Sequence[Mapping[str, Any]], shares: Mapping[str, float], patience: int | None) -> bool:
    """Whether the last `patience` evaluations were all no better than one before them; never without a patience."""
    found = best(history, shares)
    return patience is not None and found is not None and found.since >= patience


def _figure(entry: Mapping[str, Any], shares: Mapping[str, float]) -> float | None:
    """The weighted sum of an entry's figures; None of an entry that is no evaluation."""
    values = {
        name: entry[key]
        for name in shares
        for key in (f"eval_{name}_bound", f"eval_{name}_loss")
        if entry.get(key) is not None
    }
    if not values:
        return None
    total = sum(shares[name] * value for name, value in values.items() if shares[name])
    return total if math.isfinite(total) else math.inf
