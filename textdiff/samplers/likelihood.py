"""The likelihood of a text under a sampler itself, where the sampler decides by its state alone which positions it writes.

A chain that writes the positions A_1, A_2, … with independent tokens draws the text x0 with probability

    p(x0) = Π_j Π_{i ∈ A_j} q_i(x0_i | what stood before step j)                                                      (1)

if A_j hangs on nothing but that state: a fixed order, or the most confident positions first, with any number of positions a step.
The chain is run with its own step function, and each draw is x0's token.  So (1) is exact and takes one run, without Monte Carlo: it
is the likelihood of the parallel sampler, too (compare arXiv 2603.01367).

Where a random order σ decides, p(x0) = E_σ p(x0 | σ), and by Jensen's inequality, in expectation over K orders,

    −log p(x0) ≤ −log 1/K Σ_k p(x0 | σ_k)                                                                             (2)

which falls as K grows, to −log p(x0) (Burda et al., 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from textdiff.core.contracts import OfLogits, Process, Query, Step, TokenPrediction
from textdiff.core.errors import AskedError
from textdiff.core.levels import count_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, OnlyDrawn
from textdiff.core.rng import Rng


@dataclass(frozen=True)
class Forced(OnlyDrawn):
    """A prediction of which every draw is x0, and is charged −log q(x0) for it."""

    base: Categorical
    x0: Tensor  # (B, L)
    nats: Tensor  # (B,) float64, to which each draw adds

    @property
    def known(self) -> Tensor:
        return self.base.known

    def by_token(self) -> Forced:
        return self

    def pin(self, x: Tensor, where: Tensor) -> Forced:
        return replace(self, base=self.base.pin(x, where))

    def select(self, where: Tensor, known: Tensor | None = None) -> Forced:
        return replace(self, base=self.base.select(where, known))

    def map(self, shape: OfLogits, ranked: bool = False, alike: bool = False) -> Forced:
        return replace(self, base=self.base.map(shape, ranked, alike))

    def log_prob(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        return self.base.log_prob(*tokens)

    def statistic(self, f: OfLogits, fill: float = 0.0) -> Tensor:
        return self.base.statistic(f, fill)

    def draw(self, *, rng: Rng) -> Tensor:
        """x0 at the open positions, (B, L)."""
        at, (right,) = self.base.at, self.base.log_prob(self.x0)
        self.nats.index_add_(0, at[0], -right[at])
        return self.known.index_put(at, self.x0[at])


def in_order(
    x0: Tensor,
    free: Tensor,
    step: Step,
    *,
    predictor: Callable[[Query], TokenPrediction],
    process: Process,
    seeds: Tensor,
    steps: int | None = None,
    condition: Any = None,
) -> Tensor:
    """−log p(free text | given text) by (1) of the chain that goes by `step`, nats, (B,) float64.

    x0 (B, L), free (B, L) bool, seeds (B,), which matter where `step` chooses its positions by chance.  `steps` None writes one
    position at a time.  The process shows open positions as masked, and AskedError says so where it does not.
    """
    nats = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)

    def forced(query: Query) -> Forced:
        return Forced(cast(Categorical, predictor(query).by_token()), x0, nats)

    if process.sketch(x0) is None:
        raise AskedError("the likelihood of an order needs a process that shows open positions as masked")
    levels, rng = count_levels(free.sum(-1), steps), Rng(seeds, device=x0.device)
    *_, last = sample(x0, free, levels, step, predictor=forced, process=process, rng=rng, condition=condition)
    assert torch.equal(last.x, x0), "every position is written once, with the token of x0"
    return nats


def of_orders(nats: Tensor) -> Tensor:
    """(2) of the nats of K orders, (B, K) -> (B,)."""
    return math.log(nats.shape[1]) - (-nats).logsumexp(-1)
