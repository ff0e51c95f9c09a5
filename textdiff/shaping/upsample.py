"""Upsample guidance (Hwang, Park and Jo, 2024): larger images from a model of smaller ones, without training.

Averaging squares of m × m places, D, leaves the picture and divides the noise's deviation by m, so that D x_t is a noisy
small image whose signal-to-noise ratio is m² times that of x_t.  The model knows it at another level and another scale,

    log SNR(τ) = log SNR(t) + 2 log m,    x_τ = D x_t · √(ᾱ_τ² + β̄_τ²) / √(ᾱ_t² + β̄_t²/m²)                            (1)

and what it says there corrects what it says of the large image.  In terms of x̂0, U repeating each place m × m times,

    x̂0 ← x̂0(x_t, t) + w · U[x̂0(x_τ, τ) − D x̂0(x_t, t)]                                                              (2)

which is the paper's ε + w · U[ε(x_τ, τ)/m − D ε(x_t, t)].  w = 1 puts the small image's averages in place of the large one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from textdiff.core.contracts import Query, spread
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Normal, ValuePredictor
from textdiff.core.schedules import Schedule, log_snr

Weight = Callable[[Tensor], Tensor]  # level (B,) float64 -> w, (B,)


def above(level: float, weight: float = 1.0) -> Weight:
    """`weight` at levels above `level` in [0, 1], 0 below: what is large is decided early, detail is left to the model."""
    if not 0 <= level <= 1:
        raise AskedError(f"level is {level}; it must lie in [0, 1]: guidance is on above it")
    return lambda t: torch.where(t > level, weight, 0.0)


def level_of(schedule: Schedule, ratio: Tensor) -> Tensor:
    """The level with log SNR = `ratio`, by bisection, float64 like `ratio`; 1 or 0 where the schedule never has it."""
    low, high = torch.zeros_like(ratio, dtype=torch.float64), torch.ones_like(ratio, dtype=torch.float64)
    for _ in range(53):  # as many as a float64 has bits
        middle = (low + high) / 2
        cleaner = log_snr(schedule, middle) > ratio
        low, high = torch.where(cleaner, middle, low), torch.where(cleaner, high, middle)
    return high


def matched(schedule: Schedule, t: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """(τ, scale) of (1), shaped like t: where averages over `factor`² places of x_t belong; (0, 1) at level 0."""
    t = t.double()
    tau = torch.where(t > 0, level_of(schedule, log_snr(schedule, t) + 2 * math.log(factor)), 0.0)
    (a, b), (a_tau, b_tau) = schedule(t), schedule(tau)
    return tau, torch.hypot(a_tau, b_tau) / torch.hypot(a, b / factor)


def upsampled(
    predictor: ValuePredictor, schedule: Schedule, *, factor: int = 2, weight: float | Weight = 1.0
) -> ValuePredictor:
    """`predictor`, trained on small images, for images `factor` times as wide and high: (2), two evaluations.

    x_t is (B, C, H, W) with H and W divisible by `factor`, and each row is at one level wherever it is free.  The second
    evaluation is made where `weight`, a number or a function of the levels (B,), is not 0 for all rows.
    """
    if factor < 1:
        raise AskedError(f"factor is {factor}; it must be 1 or more: how many times as wide the images are")
    amount: Weight = weight if callable(weight) else lambda t: torch.full_like(t, weight)

    def predict(query: Query) -> Normal:
        x_t, t, condition = query.x_t, query.t, query.condition
        if x_t.shape[-1] % factor or x_t.shape[-2] % factor:
            raise AskedError(
                f"images of {x_t.shape[-2]} x {x_t.shape[-1]} cannot be averaged over squares of {factor}; "
                f"choose a size that {factor} divides"
            )
        large = predictor(query)
        level = t.flatten(1).amax(-1).double()
        w = spread(amount(level), x_t).to(x_t.dtype)
        if not w.any():
            return large
        tau, scale = matched(schedule, level, factor)
        small_x = avg_pool2d(x_t, factor) * spread(scale, x_t).to(x_t.dtype)
        small = predictor(Query(small_x, spread(tau, x_t), condition=condition))
        correction = small.mean - avg_pool2d(large.mean, factor)
        wide = correction.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        return replace(large, mean=large.mean + w * wide)

    return predict
