"""A mask process's prediction restricted to a set C of texts: what is the same for every such set.

The prediction is a product of independent positions, q(x) = Π q_i(x_i).  With q̃_i = q_i without the tokens that are never
written, normalised, a step draws at the asked positions from

    q_C(x) = q̃(x) · 1[x ∈ C] / Z,        Z = Σ_{x ∈ C} q̃(x)                                                           (1)

summed over the positions that are not asked.  Whatever a row has revealed can therefore be completed; nothing is rejected, and
nothing is repaired.

*Weights.*  A chain of such steps has not the law p(x0 | C), because its marginals do not know C.  Let a step write x_a at the
asked positions, Z the mass before it, Z(x_a) the mass under the same prediction once x_a stands, and k_i the mass that q_i
gives to the tokens that may be written.  The step's probability times its weight is then Π q_i(x_i) over the asked positions,

    log w = log Z − log Z(x_a) + Σ_{asked i} log k_i                                                                  (2)

so that chains of one position a step, resampled by w, follow p(x0 | C).

*The floor.*  A token that q_i all but excludes keeps some mass, so that it can be drawn where C allows nothing else.  With
d = log(q_i(v) / max q_i) and f = log 1e-12, a token with d < f counts as

    f − 4 · min(log(1 + f − d), 11)                                                                                   (3)

in the place of d: less than 1e-12 of the likeliest token, in the same order, and never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from textdiff.core.contracts import OfLogits, Query
from textdiff.core.predictions import Categorical, OnlyDrawn, TokenPredictor, positions_of
from textdiff.core.rng import Rng

LEAST = 1e-12  # a mass that rounding may eat is at least this to some power, where there is one at all
TAIL, DEEPEST = 4, 11.0  # the numbers of (3)


def asked_of(
    predictor: TokenPredictor, query: Query, coupled: Callable[[Tensor], Tensor]
) -> tuple[Categorical, Tensor]:
    """The product law of a query, read wherever a draw depends on it, and where it is to be drawn, (B, L) bool.

    `coupled` gives the positions that a draw at some positions (B, L) bool depends on, (B, L) bool.
    """
    x_t, at = query.x_t, query.at
    asked = torch.ones_like(x_t, dtype=torch.bool)
    if at is not None:
        asked = torch.zeros_like(asked).index_put(at, torch.tensor(True, device=x_t.device))
    read = positions_of(coupled(asked) | asked)
    return predictor(replace(query, at=read)).by_token(), asked


@dataclass(frozen=True)
class Restricted(OnlyDrawn):
    """The product `base` restricted to the texts of `law` (1), to be drawn at `asked`; elsewhere a draw shows `shown`.

    What is drawn from has `barred`, `draw` and `log_weight` of its own.
    """

    base: Categorical
    law: Any
    asked: Tensor  # (B, L) bool
    shown: Tensor  # (B, L)
    weigh: bool = True

    @property
    def known(self) -> Tensor:
        return self.base.known

    def pin(self, x: Tensor, where: Tensor) -> Self:
        """The prediction with x (B, L) certain at `where` (B, L) bool."""
        return replace(
            self, base=self.base.pin(x, where), asked=self.asked & ~where, shown=torch.where(where, x, self.shown)
        )

    def by_token(self) -> Self:
        return self

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 ~ q_C, (B, L)."""
        raise NotImplementedError

    def select(self, where: Tensor, known: Tensor | None = None) -> Self:
        """The law of the tokens at `where` (B, L) bool alone."""
        return replace(self, asked=self.asked & where, shown=self.shown if known is None else known)

    def map(self, shape: OfLogits, ranked: bool = False, alike: bool = False) -> Self:
        """The restriction of a product with other logits."""
        return replace(self, base=self.base.map(shape, ranked, alike))

    def log_prob(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """That of the product without the law."""
        return self.base.log_prob(*tokens)

    def statistic(self, f: OfLogits, fill: float = 0.0) -> Tensor:
        """That of the product without the law, position by position."""
        return self.base.statistic(f, fill)

    # -- what the prediction says -----------------------------------------------------------------------------------------

    @cached_property
    def opened(self) -> Tensor:
        """Where the base has a law, (B, L) bool."""
        empty = torch.zeros_like(self.asked)
        return empty.index_put(self.base.at, torch.tensor(True, device=empty.device))

    @cached_property
    def barred(self) -> Tensor:
        """The tokens that may not be written at the base's positions, (N, V) bool."""
        raise NotImplementedError

    @cached_property
    def laws(self) -> tuple[Tensor, Tensor]:
        """q̃ (K, V), with the floor (3), and which of them (N,) each of the base's positions has."""
        of_row = len(self.barred) > 1  # what is barred hangs on the position, and so does the law
        index = torch.arange(len(self.base.at[0]), device=self.asked.device)
        first, which = (index, index) if of_row else self.base.kinds()
        logits, floor = self.base.read(first), math.log(LEAST)
        kept = logits + torch.where(self.barred, -torch.inf, 0.0).to(logits.dtype)  # a sum is cheaper than a fill
        top = kept.amax(-1, keepdim=True)
        kept -= torch.where(top > -torch.inf, top, 0.0)
        least = torch.maximum(kept, torch.where(self.barred, 0.0, -torch.inf).to(logits.dtype)).amin(-1)
        rows = (least < floor).nonzero()[:, 0]  # those that have a token under the floor
        q = torch.exp(kept)
        if len(rows):
            deep = (kept[rows] < floor) & ~self.barred.expand_as(kept)[rows]
            tail = floor - TAIL * torch.log1p(floor - kept[rows]).clamp(max=DEEPEST)
            q[rows] = torch.where(deep, tail.exp(), q[rows])
        return q.div_(q.sum(-1, keepdim=True)), which

    def q(self, index: Tensor) -> Tensor:
        """q̃ at some of the base's positions, (n, V)."""
        laws, which = self.laws
        return laws[which[index]]

    def log_kept(self) -> Tensor:
        """Σ over the asked positions of log k_i of (2), (B,) float64."""
        (rows, _), logits = self.base.at, self.base.logits().double()
        kept = logits.masked_fill(self.barred, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)
        kept = torch.where(self.asked[self.base.at], kept.clamp(min=math.log(LEAST)), 0.0)
        return kept.new_zeros(len(self.asked)).index_add(0, rows, kept)
