"""The Gaussian process x_t = ᾱ_t E(x0) + β̄_t ε, ε ~ N(0, 1)  (method §4, §6).

E is the identity for images and vectors, and an embedding of fixed scale for text (`embedding.py`).  With ε recovered from
(x̂0, x_t), `bridges.reuse` is DDIM, `bridges.fresh` the baseline, and `bridges.markov` DDPM.  Between t and s < t the
Markov chain draws the share

    ρ = 1 − SNR_t/SNR_s = β²_{t|s}/β̄_t²,    SNR = ᾱ²/β̄²,    σ² = ρ β̄_s²                                              (1)

of the noise's variance anew; σ² is the variance of p(x_s | x_t, x0).  Loss: w · ½‖x0 − x̂0‖², where w = SNR gives
½‖ε − ε_θ‖² ("noise"), 1/β̄² the v of variance-preserving schedules and the velocity of flow, 1 the data, and

    w = T (SNR_s − SNR_t),    s = t − 1/T;    T SNR_t where s = 0                                                     (2)

the bound itself.  Bound of a step, with x_s = ᾱ_s x0 + √(β̄_s² − σ²) ε + σ ε′ and so γ = ∂x_s/∂x0 at fixed x_t: if the
predictor's x̂0 has mean μ and deviation d per coordinate (d = 0: DDPM; else analytic variance, Bao et al., 2022),

    KL = ½ [ log(v/σ²) + (σ² + γ²‖x0 − μ‖²)/v − 1 ],    v = σ² + γ² d²,    γ = ᾱ_s − √(β̄_s² − σ²) ᾱ_t/β̄_t             (3)

and the last step is −log q(x0 | x_t) itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.bridges import reuse
from textdiff.core.contracts import Bins, Prediction, spread
from textdiff.core.rng import Rng
from textdiff.core.schedules import STEPS, Schedule
from textdiff.processes.values import OfValues

# The weight of ½‖x0 − x̂0‖², from ᾱ and β̄ at t, and from SNR_s − SNR_t for the T steps of the bound.
WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "noise": lambda a, b, gain, steps: (a / b).square(),
    "data": lambda a, b, gain, steps: torch.ones_like(a),
    "velocity": lambda a, b, gain, steps: 1 / b.square(),
    "min-snr": lambda a, b, gain, steps: (a / b).square().clamp(max=5.0),  # Hang et al., 2023
    "bound": lambda a, b, gain, steps: steps * gain,
}


def same(x: Tensor) -> Tensor:
    """The encoder of data that is diffused as it is."""
    return x


@dataclass(frozen=True, eq=False)
class Gaussian(OfValues):
    """x_t = ᾱ_t E(x0) + β̄_t ε at every free place."""

    schedule: Schedule
    weighting: str = "noise"
    bins: Bins | None = None  # of x0, for bits per dimension; None: x0 has a density
    steps: int = STEPS  # of the bound, T
    encode: Callable[[Tensor], Tensor] = same
    decode: Callable[[Tensor], Tensor] = same

    bridge = reuse

    def rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(ᾱ_t, β̄_t), shaped and typed to go with x."""
        alpha, beta = self.schedule(t)
        return spread(alpha, x).to(x.dtype), spread(beta, x).to(x.dtype)

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        x = self.encode(given)
        alpha, beta = self.rates(torch.ones_like(free, dtype=torch.float64), x)
        scale = torch.hypot(alpha, beta)  # data of unit variance
        return torch.where(spread(free, x), scale * rng.normal(*x.shape[1:]).to(x.dtype), x)

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> Tensor:
        x = self.encode(x0)
        return rng.normal(*x.shape[1:]).to(x.dtype)

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        x = self.encode(x0)
        alpha, beta = self.rates(t, x)
        return torch.where(spread(t > 0, x), alpha * x + beta * noise, x)

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> Tensor:
        alpha, beta = self.rates(t, x_t)
        return torch.where(spread(t > 0, x_t), (x_t - alpha * self.encode(x0)) / beta, 0.0)

    def renew(self, noise: Tensor, x0: Tensor, t: Tensor, share: float | Tensor, *, rng: Rng) -> Tensor:
        share = spread(torch.as_tensor(share, dtype=noise.dtype, device=noise.device), noise)
        return (1 - share).sqrt() * noise + share.sqrt() * self.noise(x0, t, rng=rng)

    def renewal(self, t: Tensor, s: Tensor) -> Tensor:
        """ρ of (1), shaped like t; 0 where the level rises."""
        (a_t, b_t), (a_s, b_s) = self.schedule(t), self.schedule(s)
        return torch.where(t > 0, 1 - (a_t * b_s / (a_s * b_t)).square(), 0.0).clamp(min=0)

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        place = (t * self.steps).round()
        (a, b), (a_s, b_s) = self.schedule(t), self.schedule((place - 1).clamp(min=0) / self.steps)
        ratio = (a / b).square()
        gain = torch.where(place > 1, (a_s / b_s).square() - ratio, ratio)  # the last step is −log q(x0 | x_t)
        return torch.where(t > 0, WEIGHTINGS[self.weighting](a, b, gain, self.steps), 0.0).float()

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x = self.encode(x0).double()
        (a_t, b_t), (a_s, b_s) = self.rates(t, x), self.rates(s, x)
        mean, deviation = prediction.expect(self.encode)
        variance = spread(self.renewal(t, s), x) * b_s.square()  # σ²
        slope = a_s - (b_s.square() - variance).sqrt() * a_t / b_t  # γ
        wide = variance + (slope * deviation).square()  # v
        kl = 0.5 * ((wide / variance).log() + (variance + (slope * (x - mean)).square()) / wide - 1)
        last = prediction.last_nll(x0, b_t / a_t, self.bins).double()
        inner = torch.where(spread((t > 0) & (s > 0), x), kl, 0.0).flatten(1).sum(-1)
        return inner + torch.where(spread((t > 0) & (s <= 0), last), last, 0.0).flatten(1).sum(-1)

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        """KL(N(ᾱ_1 E(x0), β̄_1²) ‖ N(0, ᾱ_1² + β̄_1²)), (B,)."""
        x = self.encode(x0).double()
        alpha, beta = self.rates(torch.ones_like(free, dtype=torch.float64), x)
        whole = alpha.square() + beta.square()
        kl = 0.5 * (((alpha * x).square() + beta.square()) / whole - 1 - (beta.square() / whole).log())
        return torch.where(spread(free, x), kl, 0.0).flatten(1).sum(-1)
