"""Noise of the exact-count processes: an order of the free positions, and the token that each would become.

Position i is corrupted at level t iff rank_i < t, with rank = (k + ½)/n for a random order k = 0 … n − 1: exactly
m(t) = ⌈t·n − ½⌉ positions at level t, and nested sets as t grows (method §2, §3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.core.levels import count
from textdiff.core.rng import Rng


@dataclass(frozen=True)
class TokenNoise:
    """ε of an exact-count process."""

    rank: Tensor  # (B, L) in (0, 1) at free positions, +inf elsewhere
    token: Tensor  # (B, L) what stands there once corrupted

    def renewed(self, other: TokenNoise, where: Tensor) -> TokenNoise:
        """This noise with the ranks at `where` shuffled into other's order and other's tokens there."""
        order = torch.where(where, other.rank, torch.inf).argsort(-1)
        values = torch.where(where, self.rank, torch.inf).sort(-1).values
        shuffled = torch.empty_like(self.rank).scatter(-1, order, values)
        return TokenNoise(torch.where(where, shuffled, self.rank), torch.where(where, other.token, self.token))


class ByRank:
    """What every exact-count process shares."""

    noise: Any

    def decode(self, x: Tensor) -> Tensor:
        return x

    def renew(self, noise: TokenNoise, x0: Tensor, t: Tensor, share: float | Tensor, *, rng: Rng) -> TokenNoise:
        """The noise drawn anew at a uniform `share` of the free positions, rounded to a whole number of them.

        The positions keep the ranks that they had between them, in a new order.  So a share that rounds to one position
        changes no rank: under the mask process, whose noise is nothing but ranks, it does nothing.
        """
        free = t > 0
        where = rng.subset(free, (share * free.sum(-1)).round().long())
        return noise.renewed(self.noise(x0, torch.where(where, t, 0.0), rng=rng), where)

    def corrupt(self, x0: Tensor, t: Tensor, noise: TokenNoise) -> Tensor:
        return torch.where(noise.rank < t, noise.token, x0)

    def moves(self, t: Tensor, s: Tensor) -> Tensor:
        """Whether a step from t to s changes anything, (B,) bool."""
        free = t > 0
        return count(t, free) != count(torch.where(free, s, 0.0), free)

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Every free position counts once: cross-entropy on all of them trains q."""
        return (t > 0).float()

    def bound_steps(self, n: Tensor) -> Tensor:
        """One step for each count."""
        return n
