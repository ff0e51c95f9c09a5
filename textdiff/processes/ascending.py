"""The mask process in a fixed order: what is written last is masked first.  Without another order this is from left to right.

x_t: the last m = m(t) of the free positions show [MASK].  Nothing is drawn, as the noise is the order itself.  A step m → m′ uncovers
the first m − m′ masked positions A, and

    KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) = Σ_{i∈A} −log q_i(x0_i | x_t)                                                (1)

so with one position a step the bound is −log p(x0) itself, by the chain rule.  A predictor of whole texts (`InOrder`), whose law of a
position hears those before it, reaches the same with a single step: m = n, m′ = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from textdiff.core.contracts import Prediction, TokenPrediction
from textdiff.core.rng import Rng, order_to_ranks
from textdiff.processes.mask import Mask
from textdiff.processes.ranks import TokenNoise


@dataclass(frozen=True)
class Ascending(Mask):
    """Exactly the last m(t) of a row's free positions become [MASK]."""

    written: Tensor | None = None  # (L,) when each position is written, 0 first; None: from left to right
    whole: bool = False  # whether the predictor gives the law of whole texts, so that one step bounds them exactly

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        return TokenNoise(self._ranks(t > 0), torch.full_like(x0, self.mask_id))

    def _ranks(self, free: Tensor) -> Tensor:
        """What is written last is masked first, (B, L)."""
        time = torch.arange(free.shape[1], device=free.device) if self.written is None else self.written
        return order_to_ranks(torch.where(free, -time.double(), torch.inf), free)

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        return self.noise(x0, t, rng=rng)

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """1 at masked positions: at level 1 −log p of the free text for a predictor of whole texts."""
        return ((x_t == self.mask_id) & (t > 0)).float()

    def bound_steps(self, n: Tensor) -> Tensor:
        """One step for each position, or the one that is enough."""
        return n.clamp(max=1) if self.whole else n

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        free = t > 0
        uncovered = free & (x_t == self.mask_id) & (self._ranks(free) >= s)
        (right,) = cast(TokenPrediction, prediction).select(uncovered, known=x0).log_prob(x0)
        return -right.sum(-1)
