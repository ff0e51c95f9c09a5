"""The mask (absorbing) process (method §2).

x_t: a uniform subset S of exactly m = m(t) free positions shows [MASK].  Bridge m → m′: a uniform m − m′ of them get
x̂0's tokens.  Bound, summed over m = n … 1 with steps of one (MDLM and MD4 have the same 1/t in continuous time):

    KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) = (m − m′)/m · Σ_{i∈S} −log q_i(x0_i | x_t)                                   (1)

with equality for m − m′ = 1 and an upper bound of the factorised step otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.bridges import reuse
from textdiff.core.contracts import UNREAD, Prediction, State
from textdiff.core.levels import count
from textdiff.core.rng import Rng
from textdiff.processes.ranks import ByRank, TokenNoise


@dataclass(frozen=True)
class Mask(ByRank):
    """Exactly m(t) of a row's free positions become [MASK]."""

    mask_id: int

    bridge = reuse

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        return torch.where(free, self.mask_id, given)

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        return TokenNoise(rng.ranks(t > 0), torch.full_like(x0, self.mask_id))

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        masked = x_t == self.mask_id  # the masked positions came first; their order among themselves is open
        return TokenNoise(rng.ranks(t > 0, first=masked), torch.full_like(x_t, self.mask_id))

    def sketch(self, x_t: Tensor) -> Tensor:
        return torch.where(x_t == self.mask_id, UNREAD, x_t)

    def consistent(self, prediction: Prediction, state: State) -> Prediction:
        return prediction.pin(state.x, state.x != self.mask_id)  # what is shown is certain

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """n/m at masked positions: the bound itself, (1) summed over the counts m = 1 … n."""
        free = t > 0
        n, m = free.sum(-1, keepdim=True), count(t, free)[:, None]
        return torch.where(x_t == self.mask_id, n / m.clamp(min=1), 0.0)

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        free, masked = t > 0, x_t == self.mask_id
        (right,) = prediction.by_token().log_prob(x0)
        m, rest = count(t, free), count(torch.where(free, s, 0.0), free)
        return torch.where(masked, -right, 0.0).sum(-1) * (m - rest) / m.clamp(min=1)

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        return torch.zeros(len(x0), device=x0.device)
