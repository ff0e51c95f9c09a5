"""Bridges p(x_s | x_t, x̂0): which noise a reverse step uses (method §1).

    fresh     x_s = F_s(x̂0, ε),  ε ~ q(ε)               the baseline
    reuse     x_s = F_s(x̂0, ε),  ε ~ q(ε | x̂0, x_t)     improved
    refresh   the recovered ε with a share of it drawn anew (ReMDM's idea for exact counts; DDPM for a Gaussian)

Each takes (process, x0, x_t, t, s, *, rng) and gives x_s, (B, L).  Each maps the law of x_t to the law of x_s when x̂0 is
the x0 that x_t came from.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from textdiff.core.contracts import Bridge, Process, scheduled, spread
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng

Share = Callable[[Process, Tensor, Tensor], float | Tensor]  # (process, t, s) -> how much of the noise is drawn anew


def fresh(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """Corrupt the draft again."""
    return process.corrupt(x0, s, process.noise(x0, s, rng=rng))


def reuse(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """Corrupt the draft with the noise that x_t shows."""
    return process.corrupt(x0, s, process.recover(x0, x_t, t, rng=rng))


def improved(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """The process's own bridge."""
    return process.bridge(x0, x_t, t, s, rng=rng)


def refresh(share: float | Share) -> Bridge:
    """Re-use the noise except for a `share` of it, a number or a function (process, t, s): 0 is `reuse`, 1 is `fresh`.

    What a share is a share of, the process says: of the free positions (their ranks are shuffled among themselves and
    their tokens drawn anew, so that the count stays), or of a Gaussian's variance.
    """
    if not callable(share) and not 0 <= share <= 1:
        raise AskedError(f"refresh share is {share}; it must lie in [0, 1]")

    def bridge(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
        noise = process.recover(x0, x_t, t, rng=rng)
        part = share(process, t, s) if callable(share) else share
        return process.corrupt(x0, s, process.renew(noise, x0, t, part, rng=rng))

    return bridge


def markov(eta: float = 1.0, last: str = "posterior") -> Bridge:
    """The Gaussian bridges between DDIM (eta 0) and DDPM (eta 1): the share η²ρ of the noise is drawn anew.

    `last` is what stands before the fresh noise: "posterior" (β̄_s √ρ η), "simple" (β̄_t √ρ η = η β_{t|s}, none in the last
    step), "none".
    """
    if not 0 <= eta <= 1:
        raise AskedError(f"eta is {eta}; it must lie in [0, 1]: 0 is DDIM, 1 is DDPM")
    if last not in ("posterior", "simple", "none"):
        raise AskedError(f"last is {last!r}; expected posterior, simple or none")
    if last == "posterior":
        return refresh(lambda process, t, s: eta**2 * scheduled(process).renewal(t, s))

    def bridge(process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
        chain = scheduled(process)
        noise: Tensor = process.recover(x0, x_t, t, rng=rng)
        share = spread(eta**2 * chain.renewal(t, s), noise).to(noise.dtype)
        mean = process.corrupt(x0, s, (1 - share).sqrt() * noise)
        if last == "none":
            return mean
        beyond = share.sqrt() * chain.rates(t, noise)[1] * process.noise(x0, t, rng=rng)
        return mean + torch.where(spread(s > 0, noise), beyond, 0.0)

    return bridge
