"""Deterministic degradations F_t of images, for cold diffusion  (method §5).

A degradation is any function (x0 (B, C, H, W), t) -> like x0, t in [0, 1] and (B, 1, 1, 1) or (B, 1, H, W); those here read
the level of a row as its highest, are the identity at level 0, and keep the values of places whose level is 0.

    blur       heat that spreads for a while between reflecting borders: frequency (k, l) of the cosine transform times
               exp(−½σ²(ω_k² + ω_l²)), ω_k = πk/H; σ = t²·largest·(the longer side), so that little but the mean is left at 1
    fade       towards `value`, from the centre outwards, or everywhere at once
    pixelate   means of squares of side 2, 4, … largest, one after the other; `mixed`: each fades into the next
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import spread
from textdiff.core.errors import AskedError
from textdiff.core.resolve import unknown

Degradation = Callable[[Tensor, Tensor], Tensor]


def by_row(degrade: Degradation) -> Degradation:
    """`degrade` at each row's highest level (B, 1, 1, 1); places at level 0 keep their values."""

    def whole(x0: Tensor, t: Tensor) -> Tensor:
        level = spread(t.flatten(1).amax(-1), x0).to(x0.dtype)
        return torch.where(spread(t > 0, x0), degrade(x0, level), x0)

    return whole


def blur(largest: float = 1.0) -> Degradation:
    """Gaussian blur with reflecting borders, exact at every width."""
    if not largest > 0:
        raise AskedError(f"largest is {largest}; the blur at level 1 must be wider than 0, in sides of the image")

    def degrade(x0: Tensor, level: Tensor) -> Tensor:
        down, across = (cosines(n).to(x0) for n in x0.shape[-2:])
        rows, columns = (torch.arange(n).to(x0) * math.pi / n for n in x0.shape[-2:])
        sigma = level.square() * largest * max(x0.shape[-2:])
        left = (-0.5 * sigma.square() * (rows[:, None].square() + columns.square())).exp()
        return down.T @ (left * (down @ x0 @ across.T)) @ across

    return by_row(degrade)


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform of n values, (n, n) float64."""
    place, k = torch.arange(n, dtype=torch.float64) + 0.5, torch.arange(n, dtype=torch.float64)[:, None]
    return (math.pi / n * k * place).cos() * torch.where(k == 0, 1 / n, 2 / n).sqrt()


def fade(value: float = -1.0, edge: float | None = 0.5) -> Degradation:
    """x0 + mask·(value − x0); the mask grows from the centre with an `edge` of that softness, or is t everywhere (None)."""
    if edge is not None and not edge > 0:
        raise AskedError(f"edge is {edge}; it must be greater than 0, or null to fade everywhere at once")

    def degrade(x0: Tensor, level: Tensor) -> Tensor:
        mask = level
        if edge is not None:
            down, across = (torch.linspace(-1, 1, n).to(x0) for n in x0.shape[-2:])
            distance = torch.hypot(down[:, None], across) / math.sqrt(2)
            mask = ((level * (1 + edge) - distance) / edge).clamp(0, 1)
        return x0 + mask * (value - x0)

    return by_row(degrade)


def pixelate(largest: int = 8, mixed: bool = False) -> Degradation:
    """Averages over squares of side 2, 4, … `largest`, each over an equal share of the levels."""
    if largest < 2 or largest & (largest - 1):
        raise AskedError(f"largest is {largest}; the side of a square must be a power of two from 2 on")
    stages = largest.bit_length() - 1

    def degrade(x0: Tensor, level: Tensor) -> Tensor:
        if any(side % largest for side in x0.shape[-2:]):
            raise AskedError(f"images of {x0.shape[-2]} by {x0.shape[-1]} do not part into squares of side {largest}")
        place = level * stages
        stage = (place - 1e-6).ceil()  # a third of the levels is no float32
        result = x0
        for k in range(1, stages + 1):
            coarse = torch.nn.functional.avg_pool2d(x0, 2**k)
            coarse = coarse.repeat_interleave(2**k, -2).repeat_interleave(2**k, -1)
            share = (place - (k - 1)).clamp(0, 1) if mixed else (stage >= k).to(x0.dtype)
            result = torch.lerp(result, coarse, share)
        return result

    return by_row(degrade)


DEGRADATIONS: dict[str, Callable[..., Degradation]] = {"blur": blur, "fade": fade, "pixelate": pixelate}


def get_degradation(described: Mapping[str, Any]) -> Degradation:
    """The degradation of {"name": …, option: value}; ValueError for a name or an option that is not known."""
    options = dict(described)
    name = options.pop("name", None)
    if name not in DEGRADATIONS:
        raise unknown("degradation", str(name), DEGRADATIONS)
    known = inspect.signature(DEGRADATIONS[name]).parameters
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    return DEGRADATIONS[name](**options)
