"""Bridges p(x_s | x_t, x̂0): which noise a reverse step uses (method §1).

    fresh     x_s = F_s(x̂0, ε),  ε ~ q(ε)               the baseline
    reuse     x_s = F_s(x̂0, ε),  ε ~ q(ε | x̂0, x_t)     improved
    refresh   the recovered ε with a share of positions drawn anew (ReMDM's idea for exact counts)

Each takes (process, x0, x_t, t, s, *, rng) and gives x_s, (B, L).  Each maps the law of x_t to the law of x_s when x̂0 is
the x0 that x_t came from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from textdiff.contracts import Bridge, Process
from textdiff.rng import Rng


def fresh(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """Corrupt the draft again."""
    return process.corrupt(x0, s, process.noise(x0, s, rng=rng))


def reuse(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """Corrupt the draft with the noise that x_t shows."""
    return process.corrupt(x0, s, process.recover(x0, x_t, t, rng=rng))


def improved(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """The process's own bridge."""
    return process.bridge(x0, x_t, t, s, rng=rng)


def refresh(share: float) -> Bridge:
    """Re-use the noise except at a uniform `share` of the free positions: 0 is `reuse`, 1 is `fresh`.

    The ranks of the chosen positions are shuffled among themselves and their tokens drawn anew, which leaves the law of
    the noise, and with it the count, as it is.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"refresh share is {share}; it must lie in [0, 1]")

    def bridge(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
        noise: Any = process.recover(x0, x_t, t, rng=rng)
        free = t > 0
        where = rng.subset(free, (share * free.sum(-1)).round().long())
        other = process.noise(x0, torch.where(where, t, 0.0), rng=rng)
        return process.corrupt(x0, s, noise.renewed(other, where))

    return bridge
