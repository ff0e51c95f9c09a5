"""The joint law of positions that are written one after the other.

    q(x) = Π_i q_i(x_i | the tokens that stand, and x_j of the open positions j < i)                                  (1)

over the open positions i in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.contracts import Bins, OfLogits, Positions
from textdiff.core.predictions import Categorical, OnlyDrawn
from textdiff.core.rng import Rng


@dataclass(frozen=True)
class InOrder(OnlyDrawn):
    """The law (1); `given(x)` holds q_i given x's tokens at the positions before i, for x (B, L).

    `alone` says what is known of a position before anything is read.  Positions that are not `written` (B, L) bool are open for
    good, and nothing else is ever known of them.
    """

    given: Callable[[Tensor], Categorical]
    alone: Categorical
    written: Tensor

    @property
    def at(self) -> Positions:
        """The open positions."""
        return self.alone.at

    @property
    def known(self) -> Tensor:
        """The tokens that stand elsewhere, (B, L)."""
        return self.alone.known

    def _both(self, change: Callable[[Categorical], Categorical]) -> InOrder:
        return InOrder(lambda x: change(self.given(x)), change(self.alone), self.written)

    def pin(self, x: Tensor, where: Tensor) -> InOrder:
        """The law of the other positions once x (B, L) stands at `where` (B, L) bool: by (1) if these are the first ones."""
        return self._both(lambda part: part.pin(x, where))

    def select(self, where: Tensor, known: Tensor | None = None) -> InOrder:
        """The law of the positions at `where` (B, L) bool; known tokens (this prediction's by default) elsewhere."""
        return self._both(lambda part: part.select(where, known))

    def map(self, shape: OfLogits, ranked: bool = False, alike: bool = False) -> InOrder:
        """The law (1) with shape(logits, rows, positions) in the place of the logits of each q_i."""
        return self._both(lambda part: part.map(shape, ranked, alike))

    def towards(self, base: InOrder, scale: float) -> InOrder:
        alone = self.alone.towards(base.alone, scale)
        return InOrder(lambda x: self.given(x).towards(base.given(x), scale), alone, self.written)

    def draw(self, *, rng: Rng) -> Tensor:
        """x ~ q, (B, L), one position after the other."""
        x, own = self.known, rng.branch()
        columns = torch.arange(x.shape[1], device=x.device)
        for column in columns.tolist() if own.lockstep else self.at[1].unique().tolist():
            own.counter = column  # whichever columns the other rows have open
            x = self.given(x).select((columns == column).expand_as(x), known=x).draw(rng=own)
        return x

    def log_prob(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """log q_i(x_i | x before i) in nats for each x (B, L) of `tokens`, (B, L) float64; their sum is log q(x)."""
        return tuple(self.given(x).log_prob(x)[0] for x in tokens)

    def weighted_nll(self, x0: Tensor, weights: Tensor) -> Tensor:
        """Σ weights · −log q_i(x0_i | x0 before i), nats."""
        return self.given(x0).weighted_nll(x0, weights)

    def last_nll(self, x0: Tensor, deviation: Tensor, bins: Bins | None) -> Tensor:
        """−log q_i(x0_i | x0 before i), (B, L)."""
        return -self.log_prob(x0)[0]

    def by_token(self) -> Categorical:
        """A product law: each row's first position that is written has its own law, and the others what is known of them `alone`."""
        rows, written = self.at[0], self.written[self.at]
        first = torch.zeros_like(written)
        index = written.nonzero()[:, 0]
        first[index] = torch.cat([written.new_ones(len(index[:1])), rows[index[1:]] != rows[index[:-1]]])

        def read(index: Tensor) -> Tensor:
            logits, chosen = self.alone.read(index), first[index]
            if chosen.any():
                logits = logits.index_put((chosen.nonzero()[:, 0],), self.given(self.known).read(index[chosen]))
            return logits

        alone = self.alone.kind
        kind = None if alone is None else torch.where(first, -1 - first.cumsum(0), alone)
        return Categorical(read, self.at, self.known, kind=kind)

    def statistic(self, f: OfLogits, fill: float = 0.0) -> Tensor:
        """That of `by_token`."""
        return self.by_token().statistic(f, fill)
