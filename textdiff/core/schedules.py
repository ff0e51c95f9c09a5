"""Schedules of the Gaussian process: level t in [0, 1] -> (ᾱ_t, β̄_t) of x_t = ᾱ_t x0 + β̄_t ε  (method §4).

A schedule is any function of a float64 tensor that gives two of its shape, with (ᾱ_0, β̄_0) = (1, 0).

    linear   ᾱ² = Π (1 − β_k), β_k evenly from 1e-4 to 2e-2 over 1000 steps (Ho, Jain and Abbeel, 2020)
    cosine   ᾱ² = cos²((t + .008)/1.008 · π/2), normalised, each β_k at most .999 (Nichol and Dhariwal, 2021)
    coarse   the same with .25 in the place of .008: the first of 1000 steps has β̄ = .03 and not .006, which is what bins of
             1/8 are to the cosine's bins of 1/128.  Finer noise than the data's bins costs bits and shows nothing
    sqrt     ᾱ² = 1 − √(t + 1e-4), normalised (Li et al., Diffusion-LM, 2022)
    flow     ᾱ = 1 − t, β̄ = t (Liu, Gong and Liu, rectified flow, 2022): not variance preserving

The first four are tables over k = 0 … 1000, t = k/1000, exact there and with log ᾱ² interpolated in between.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.core.resolve import unknown

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]

STEPS = 1000


def from_betas(betas: Tensor) -> Schedule:
    """Variance preserving, ᾱ² the running product of 1 − β_k, k = 1 … T (T,)."""
    if betas.ndim != 1 or not bool(((betas > 0) & (betas < 1)).all()):
        raise AskedError("betas must be one-dimensional and lie strictly between 0 and 1")
    table = torch.nn.functional.pad((-betas.double()).log1p().cumsum(0), (1, 0))  # log ᾱ², k = 0 … T

    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        known = table.to(t.device)
        place = t.double() * len(betas)
        low = place.floor().long().clamp(0, len(betas) - 1)
        log = known[low] + (place - low) * (known[low + 1] - known[low])
        return (log / 2).exp(), (-torch.expm1(log)).sqrt()

    return schedule


def from_survival(survival: Callable[[float], float], most: float = 0.999) -> Schedule:
    """Variance preserving, from ᾱ² as a function of t, over STEPS steps, each β at most `most`."""
    values = [survival(k / STEPS) for k in range(STEPS + 1)]
    return from_betas(torch.tensor([min(1 - b / a, most) for a, b in itertools.pairwise(values)], dtype=torch.float64))


def linear() -> Schedule:
    return from_betas(torch.linspace(1e-4, 2e-2, STEPS, dtype=torch.float64))


def cosine(offset: float = 0.008) -> Schedule:
    return from_survival(lambda t: math.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2)


def coarse() -> Schedule:
    return cosine(0.25)


def sqrt() -> Schedule:
    return from_survival(lambda t: max(1 - math.sqrt(t + 1e-4), 0.0))


def flow() -> Schedule:
    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t.double(), t.double()

    return schedule


def shifted(schedule: Schedule, factor: float) -> Schedule:
    """The schedule with its signal-to-noise ratio times `factor`² > 0, variance preserving (Hoogeboom et al., 2023).

    For images of side d trained by a schedule made for side d₀, factor = d₀/d: then an image averaged down to d₀ has the
    ratio that the schedule was made for.
    """
    if not 0 < factor < math.inf:
        raise AskedError(f"factor is {factor}; it must be a positive number, such as 32/64 for images of side 64")

    def other(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, beta = schedule(t)
        alpha = alpha * factor
        norm = torch.hypot(alpha, beta)
        return alpha / norm, beta / norm

    return other


def log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """log(ᾱ²/β̄²), +∞ at level 0."""
    alpha, beta = schedule(t)
    return 2 * (alpha.log() - beta.log())


def slopes(schedule: Schedule, t: Tensor, step: float = 1e-6) -> tuple[Tensor, Tensor]:
    """dᾱ/dt and dβ̄/dt, by central differences inside [0, 1]."""
    high, low = (t.double() + step).clamp(max=1), (t.double() - step).clamp(min=0)
    (a1, b1), (a0, b0) = schedule(high), schedule(low)
    return (a1 - a0) / (high - low), (b1 - b0) / (high - low)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "coarse": coarse,
    "sqrt": sqrt,
    "flow": flow,
}


@functools.cache  # a table of a thousand values
def get_schedule(name: str, factor: float = 1.0) -> Schedule:
    """The schedule of that name, shifted by `factor` if that is not 1."""
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    return SCHEDULES[name]() if factor == 1 else shifted(SCHEDULES[name](), factor)
