"""Levels: how much of a text is corrupted, from 1 (all) down to 0 (none).

`alpha` is the survival α(t) of a token under a process of independent positions.  For the exact-count processes a level
stands for the count

    m(t) = #{k < n : (k + ½)/n < t} = ⌈t·n − ½⌉                                                                       (1)

of corrupted positions among the n free ones of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from textdiff.core.errors import AskedError

# Fraction of the text still corrupted after a fraction u of the steps; decreasing from 1 to 0.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: math.cos(math.pi * u / 2),
    "quadratic": lambda u: (1 - u) ** 2,
}
DENSE = 4  # steps a position from which on no count is left out: no schedule falls by more than 2/steps in a step


def alpha(t: Tensor) -> Tensor:
    """α(t) = 1 − t: the probability that a position has not been redrawn at level t (UDLM's linear survival)."""
    return 1 - t


def count(t: Tensor, free: Tensor) -> Tensor:
    """m(t) of (1) for each row, (B,), from levels (B, L) that are 0 where not free."""
    return (t.amax(-1) * free.sum(-1) - 0.5).ceil().clamp(min=0).long()


def count_levels(n: Tensor, steps: int | None = None, schedule: str = "linear") -> Iterator[Tensor]:
    """Level sequence below 1 for rows of n (B,) free positions, each (B, 1): whole counts, no level twice in a row.

    `steps` None means one position at a time, whatever the schedule.  A row that needs fewer steps than another reaches 0
    early and stays there, so that its own sequence does not depend on the rows beside it.
    """
    if steps is not None and steps < 1:
        raise AskedError(f"steps is {steps}; it must be at least 1, or None for one position at a time")
    sequences = []
    for size in n.tolist():
        counts = set(range(1, size))
        if steps is not None and steps < DENSE * size:
            counts &= {round(size * SCHEDULES[schedule](j / steps)) for j in range(1, steps)}
        sequences.append([m / size for m in sorted(counts, reverse=True)] + [0.0] if size else [])
    for j in range(max(map(len, sequences), default=0)):
        yield torch.tensor([[q[j] if j < len(q) else 0.0] for q in sequences], dtype=torch.float64, device=n.device)


def even_levels(steps: int) -> Iterator[float]:
    """1 − 1/steps, …, 0: for processes of independent positions."""
    if steps < 1:
        raise AskedError(f"steps is {steps}; it must be at least 1")
    return ((steps - j) / steps for j in range(1, steps + 1))
