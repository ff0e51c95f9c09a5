"""Cold diffusion: a deterministic degradation, and little or no noise (Bansal et al., 2022; method §5).

    x_t = F_t(x0) + σ ε                                                                                               (1)

The noise that is recovered is the residual r = x_t − F_t(x̂0), so that nothing is divided by σ, which may be 0:

    fresh      x_s = F_s(x̂0) + σ ε                     "naive"
    improved   x_s = F_s(x̂0) + x_t − F_t(x̂0)           exact for F_t(x) = x + t·e, whatever x̂0 is                     (2)

(2) also holds at s = 0, where what is left of the residual stays.  Without noise every x0 with the same F_1 has the same
end; σ > 0, and a `terminal` law for F_1(x0), make generation of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.contracts import Prediction, spread
from textdiff.core.rng import Rng
from textdiff.processes.values import OfValues

Degradation = Callable[[Tensor, Tensor], Tensor]  # (x0 (B, …), t like free) -> F_t(x0), the identity where t is 0


@dataclass(frozen=True, eq=False)
class Cold(OfValues):
    """x_t = F_t(x0) + σ ε at the free places."""

    degrade: Degradation
    sigma: float = 0.0
    terminal: Callable[..., Tensor] | None = None  # (given, *, rng) -> F_1 of new data, for generation
    steps: int = 50  # levels of the training

    def degraded(self, x0: Tensor, t: Tensor) -> Tensor:
        """F_t(x0) in the precision of x0, also where a level in float64 has widened it."""
        return self.degrade(x0, t).to(x0.dtype)

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        """F_1 of new data; without a `terminal` law F_1 of the given data, so that a degraded copy is restored."""
        level = free.double()
        end = self.degraded(given, level) if self.terminal is None else self.terminal(given, rng=rng)
        return torch.where(spread(free, given), end + self.noise(given, level, rng=rng), given)

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> Tensor:
        """The residual σ ε, like x0."""
        return self.sigma * rng.normal(*x0.shape[1:]).to(x0.dtype) if self.sigma else torch.zeros_like(x0)

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return torch.where(spread(t > 0, x0), self.degraded(x0, t) + noise, x0)

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> Tensor:
        return torch.where(spread(t > 0, x0), x_t - self.degraded(x0, t), 0.0)

    def renew(self, noise: Tensor, x0: Tensor, t: Tensor, share: float | Tensor, *, rng: Rng) -> Tensor:
        kept, anew = (1 - share) ** 0.5, share**0.5
        return noise * kept + self.noise(x0, t, rng=rng) * anew

    def bridge(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
        """(2)."""
        return torch.where(spread(t > 0, x0), x_t + self.degraded(x0, s) - self.degraded(x0, t), x_t)

    def decode(self, x: Tensor) -> Tensor:
        return x

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Every free place counts once, at every level."""
        return (t > 0).float()

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        raise NotImplementedError("cold diffusion has no bound: without noise no x_t has a density")

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        raise NotImplementedError("cold diffusion has no bound: without noise no x_t has a density")
