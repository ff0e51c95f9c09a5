"""Predictions q(x0 | x_t) as objects.

`Categorical` is a product of categorical laws at N positions, those of the query; every other position is known.  Its logits are
read where they are used and not before: `read(index)` gives the rows of the (N, V) table that a method needs, so a network's
projection to the vocabulary happens at those positions only, in pieces, and no (B, L, V) tensor is ever built.
`Normal` is the law of continuous data: a mean and a deviation for every value.

Exact count (method §3).  With d_i = 1 − q_i(x_i) the probability that position i differs from x, the number of differing
positions is Poisson-binomial; with R_k^{(i)} its pmf over the first i positions,

    R_k^{(i)} = (1 − d_i) R_k^{(i−1)} + d_i R_{k−1}^{(i−1)},        P(i ∈ D | k left, first i) = d_i R_{k−1}^{(i−1)} / R_k^{(i)}   (1)

so the backward recursion draws D given |D| = m exactly (conditional Bernoulli; Chen, Dempster and Liu, 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from textdiff.core.contracts import (
    Bins,
    OfLogits,
    Positions,
    Prediction,
    Predictor,
    Process,
    Query,
    State,
    TokenPrediction,
    spread,
)
from textdiff.core.errors import AskedError
from textdiff.core.rng import PIECE, STRIP, Rng
from textdiff.core.schedules import Schedule


def positions_of(where: Tensor) -> Positions:
    """(rows, positions) of the True entries of a (B, L) mask, row by row; more indices where a place has more."""
    return where.nonzero(as_tuple=True)


def predict(state: State, where: Tensor, *, predictor: Predictor, process: Process) -> Prediction:
    """The prediction at `where` (B, L) bool, given text pinned and consistent with x_t.  Rows outside `where` cost nothing."""
    prediction = predictor(
        Query(state.x, state.t, at=positions_of(where), condition=state.condition, previous=state.x0)
    )
    return process.consistent(prediction.pin(state.given, ~state.free), state)


@dataclass(frozen=True)
class Categorical:
    """Independent categorical laws at `at`; the tokens of `known` (B, L) elsewhere."""

    read: Callable[[Tensor], Tensor]  # (n,) indices into at -> (n, V) logits, float32, −inf where never
    at: Positions
    known: Tensor
    ranked: Callable[[Tensor], Tensor] | None = None  # the same, for `statistic` alone, where that reads another law
    kind: Tensor | None = (
        None  # (N,) a number for each position, equal where the laws are known to be equal; None: nothing is known
    )

    @classmethod
    def from_logits(cls, logits: Tensor, known: Tensor, at: Positions | None = None) -> Categorical:
        """From (B, L, V) logits, or (N, V) logits at `at`."""
        if at is None:
            at = positions_of(torch.ones_like(known, dtype=torch.bool))
            logits = logits.flatten(0, 1)
        return cls(logits.__getitem__, at, known)

    def map(self, shape: OfLogits, ranked: bool = False, alike: bool = False) -> Categorical:
        """The prediction with `shape(logits (n, V), rows (n,), positions (n,))` in the place of its logits.

        With `ranked` its `statistic` stays that of this one; `alike` says that `shape` looks at the logits alone.
        """
        rows, positions = self.at
        before = (self.ranked or self.read) if ranked else self.ranked
        kind = self.kind if alike else None
        return replace(
            self, read=lambda index: shape(self.read(index), rows[index], positions[index]), ranked=before, kind=kind
        )

    def select(self, where: Tensor, known: Tensor | None = None) -> Categorical:
        """The part at `where` (B, L) bool; known tokens (this prediction's by default) elsewhere."""
        keep = where[self.at].nonzero()[:, 0]
        rows, positions = self.at
        known = self.known if known is None else known
        if len(keep) == len(rows):
            return replace(self, known=known)
        ranked = self.ranked
        return Categorical(
            lambda index: self.read(keep[index]),
            (rows[keep], positions[keep]),
            known,
            None if ranked is None else lambda index: ranked(keep[index]),
            None if self.kind is None else self.kind[keep],
        )

    def pin(self, x: Tensor, where: Tensor) -> Categorical:
        """The prediction with x (B, L) certain at `where` (B, L) bool."""
        return self.select(~where, torch.where(where, x, self.known))

    def by_token(self) -> Categorical:
        return self

    def logits(self) -> Tensor:
        """All N rows, (N, V)."""
        return self.read(torch.arange(len(self.at[0]), device=self.known.device))

    def kinds(self) -> tuple[Tensor, Tensor]:
        """(positions (K,), which (N,)): the law of position i is that of positions[which[i]], and no more is known of equal laws."""
        index = torch.arange(len(self.at[0]), device=self.known.device)
        if self.kind is None:
            return index, index
        numbers, which = self.kind.unique(return_inverse=True)
        return index.new_full((len(numbers),), len(index)).scatter_reduce(0, which, index, "amin"), which

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 ~ q, (B, L)."""
        return self._put(self.known, rng.categorical(self.read, at=self.at))

    def log_weight(self, x: Tensor) -> Tensor:
        """0 (B,): nothing was left out."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def mode(self) -> Tensor:
        """The likeliest token of every position that has a law, (B, L)."""
        return self._put(self.known, self.per_position(lambda logits, *_: logits.argmax(-1)))

    def log_prob(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """log q_i(x_i) in nats for each x (B, L) of `tokens`, (B, L) float64; at known positions 0 if right, else −inf.

        The sum is taken in float64, so that 1 − q keeps its relative precision where q is nearly 1.
        """

        def gather(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
            index = torch.stack([x[rows, positions] for x in tokens], -1)  # (n, k)
            largest = logits.amax(-1, keepdim=True)
            total = (logits - largest).exp_().sum(-1, keepdim=True, dtype=torch.float64)
            return (logits.gather(-1, index) - largest).double() - total.log()

        values = self.per_position(gather)  # (N, k)
        certain = [torch.where(self.known == x, 0.0, -torch.inf).to(values.dtype) for x in tokens]
        return tuple(self._put(base, values[:, k]) for k, base in enumerate(certain))

    def nll(self, x0: Tensor) -> Tensor:
        """−log q_i(x0_i) in nats, (B, L)."""
        return -self.log_prob(x0)[0]

    def weighted_nll(self, x0: Tensor, weights: Tensor) -> Tensor:
        """Σ weights · −log q_i(x0_i) over the positions that have a law, nats, float32 (`nll` takes float64, slow backwards)."""

        def cross_entropy(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(logits, x0[rows, positions], reduction="none")

        return (weights[self.at] * self.per_position(cross_entropy)).sum()

    def expect(self, encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(Σ_v q_i(v) encode(v), 0), the first (B, L, D); `encode` maps ids of any shape to vectors."""

        def mean(logits: Tensor, *_: Tensor) -> Tensor:
            table = encode(torch.arange(logits.shape[-1], device=logits.device))
            return logits.softmax(-1).to(table.dtype) @ table

        vectors = self._put(encode(self.known), self.per_position(mean))
        return vectors, torch.zeros((), dtype=vectors.dtype, device=vectors.device)

    def last_nll(self, x0: Tensor, deviation: Tensor, bins: Bins | None) -> Tensor:
        """−log q_i(x0_i), (B, L): tokens need neither a deviation nor bins."""
        return self.nll(x0)

    def towards(self, base: Categorical, scale: float) -> Categorical:
        """log q ∝ log base + scale · (log self − log base); what either side excludes stays excluded."""

        def read(index: Tensor) -> Tensor:
            here, there = self.read(index).log_softmax(-1), base.read(index).log_softmax(-1)
            never = (here == -torch.inf) | (there == -torch.inf)  # −inf − (−inf) would be nan
            return torch.where(never, -torch.inf, there + scale * (here - there))

        return replace(self, read=read, kind=None)

    def statistic(self, f: OfLogits, fill: float = 0.0) -> Tensor:
        """f(log-probabilities (n, V), rows (n,), positions (n,)) -> (n,), as (B, L) with `fill` at known positions."""
        read = self.ranked or self.read
        values = replace(self, read=read).per_position(lambda logits, *at: f(logits.log_softmax(-1), *at))
        return self._put(torch.full(self.known.shape, fill, dtype=values.dtype, device=values.device), values)

    def per_position(self, f: OfLogits) -> Tensor:
        """f(logits, rows, positions) over all N positions, a piece at a time, (N, …)."""
        rows, positions = self.at
        index = torch.arange(len(rows), device=self.known.device)
        pieces = index.split(PIECE if torch.is_grad_enabled() else STRIP)
        return torch.cat([f(self.read(i), rows[i], positions[i]) for i in pieces])

    def _put(self, base: Tensor, values: Tensor) -> Tensor:
        return base.index_put(self.at, values)


@dataclass(frozen=True)
class Normal:
    """N(mean, deviation²) at every place; a deviation of 0 says that x0 is taken for a point."""

    mean: Tensor  # (B, …)
    deviation: Tensor  # broadcasts against it
    power: int = 2  # of the error in the loss; 1 is the loss of a Laplace law, that of cold diffusion

    @classmethod
    def point(cls, mean: Tensor, power: int = 2) -> Normal:
        return cls(mean, torch.zeros((), dtype=mean.dtype, device=mean.device), power)

    def pin(self, x: Tensor, where: Tensor) -> Normal:
        """The prediction with x certain at `where`, which broadcasts against x."""
        where = spread(where, self.mean)
        return replace(self, mean=torch.where(where, x, self.mean), deviation=torch.where(where, 0.0, self.deviation))

    def by_token(self) -> TokenPrediction:
        raise AskedError("this is a prediction of values, and tokens are needed; use a sampler and a process of values")

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 ~ q, (B, …).  Later draws are the same whether or not this one is needed: it may be for another row."""
        branch = rng.branch()
        if not self.deviation.any():
            return self.mean
        return self.mean + self.deviation * branch.normal(*self.mean.shape[1:]).to(self.mean.dtype)

    def mode(self) -> Tensor:
        return self.mean

    def weighted_nll(self, x0: Tensor, weights: Tensor) -> Tensor:
        """Σ weights · |x0 − mean|^p/p: for p = 2 −log q at unit deviation, without its constant."""
        error = (x0 - self.mean).abs().pow(self.power) / self.power
        return (spread(weights, error) * error).sum()

    def expect(self, encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(encode(mean), deviation): the deviation is one of the encoded, and 0 where encode is more than the identity."""
        return encode(self.mean), self.deviation

    def last_nll(self, x0: Tensor, deviation: Tensor, bins: Bins | None) -> Tensor:
        """−log of the density at x0, or of the mass of its bin, nats, like x0; `deviation` where this one has none."""
        sigma = torch.where(self.deviation > 0, self.deviation, deviation).double()
        if bins is None:
            return 0.5 * ((x0 - self.mean) / sigma).square() + sigma.log() + 0.5 * math.log(2 * math.pi)
        half, error = bins.width / 2, x0.double() - self.mean
        high = torch.where(x0 > bins.high - half, torch.inf, (error + half) / sigma)  # the outer bins are open
        low = torch.where(x0 < bins.low + half, -torch.inf, (error - half) / sigma)
        flip = low > 0  # log(Φ(high) − Φ(low)), taken on the side where Φ is small
        high, low = torch.where(flip, -low, high), torch.where(flip, -high, low)
        above, below = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        nats: Tensor = -(above + log1mexp((below - above).clamp(max=0)))
        return nats

    def towards(self, base: Normal, scale: float) -> Normal:
        """Equal deviations multiply to the extrapolated mean, base + scale · (self − base)."""
        return replace(self, mean=base.mean + scale * (self.mean - base.mean))

    def log_weight(self, x: Tensor) -> Tensor:
        """0 (B,)."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)


# Predictors of which a caller reads more than every prediction offers: logits, a mean.
TokenPredictor = Callable[[Query], Categorical]
ValuePredictor = Callable[[Query], Normal]


def noise_of(prediction: Normal, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """ε̂ = (x_t − ᾱ x̂0)/β̄ of a prediction; the score is −ε̂/β̄."""
    alpha, beta = (spread(rate, x_t).to(x_t.dtype) for rate in schedule(t))
    return (x_t - alpha * prediction.mean) / beta


class OnlyDrawn:
    """What predictions share that can be drawn from, and refuse every other question; nothing weighs their draws."""

    def by_token(self) -> TokenPrediction:
        raise self._refusal("a sampler or a process that reads the probabilities of tokens")

    def log_weight(self, x: Tensor) -> Tensor:
        """0 (B,): nothing was left out."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def weighted_nll(self, x0: Tensor, weights: Tensor) -> Tensor:
        raise self._refusal("a loss")

    def expect(self, encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        raise self._refusal("a mean")

    def last_nll(self, x0: Tensor, deviation: Tensor, bins: Bins | None) -> Tensor:
        raise self._refusal("a bound")

    def towards(self, base: Self, scale: float) -> Self:
        raise self._refusal("guidance")

    def _refusal(self, what: str) -> AskedError:
        return AskedError(
            f"this prediction ({type(self).__name__}) can only be drawn from, and {what} needs more; use samplers and "
            f"processes that draw whole texts, such as the improved or baseline sampler with the mask process"
        )


@dataclass(frozen=True)
class CountConditioned(OnlyDrawn):
    """A categorical prediction whose draw differs from x (B, L) in `low` to `high` (B,) places.

    Where no allowed count is possible (a sure predictor, narrow allowed sets) the nearest possible one is taken.
    """

    base: TokenPrediction
    x: Tensor
    low: Tensor
    high: Tensor

    def pin(self, x: Tensor, where: Tensor) -> CountConditioned:
        return replace(self, base=self.base.pin(x, where))

    def by_token(self) -> TokenPrediction:
        """The prediction whose draws may differ anywhere."""
        return self.base

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 with D = {i : x̂0_i ≠ x_i} drawn by (1), then x̂0_i ~ q_i without x_i on D, (B, L)."""
        (stay,) = self.base.log_prob(self.x)
        differing = draw_differing(stay, self.low, self.high, rng=rng)
        return draw_other(self.base, self.x, differing, rng=rng)


def draw_other(prediction: TokenPrediction, x: Tensor, where: Tensor, *, rng: Rng) -> Tensor:
    """x with fresh tokens at `where` (B, L), drawn from the prediction without x's own, (B, L)."""

    def ban(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        return logits.scatter(-1, x[rows, positions][:, None], -torch.inf)

    known = torch.where(where, prediction.known, x)  # what was pinned to differ
    return prediction.select(where, known).map(ban).draw(rng=rng)


def log1mexp(a: Tensor) -> Tensor:
    """log(1 − exp(a)) for a ≤ 0 (Mächler, 2012)."""
    return torch.where(a > -0.693, torch.log(-torch.expm1(a)), torch.log1p(-torch.exp(a)))


def differing_table(stay: Tensor, size: int) -> Tensor:
    """log R_k^{(i)} of (1) for i = 0 … L and k = 0 … size, (L + 1, B, size + 1), float64."""
    stay = stay.double()
    change = log1mexp(stay)
    shape = (stay.shape[1] + 1, len(stay), size + 1)
    table = torch.full(shape, -torch.inf, dtype=torch.float64, device=stay.device)
    table[0, :, 0] = 0.0
    table[1:, :, 0] = stay.T.cumsum(0)
    for before, row, stays, moves in zip(table, table[1:], stay.T[..., None], change.T[..., None], strict=False):
        row[:, 1:] = torch.logaddexp(before[:, 1:] + stays, before[:, :-1] + moves)
    return table


def draw_differing(stay: Tensor, low: Tensor, high: Tensor, *, rng: Rng) -> Tensor:
    """The differing positions D, (B, L) bool, given log-probabilities of staying (B, L) and low ≤ |D| ≤ high (B,)."""
    length = stay.shape[1]
    table = differing_table(stay, length)  # (L + 1, B, L + 1)
    change = log1mexp(stay.double())
    count = torch.arange(length + 1, device=stay.device)
    distance = torch.maximum(low[:, None] - count, count - high[:, None]).clamp(min=0)
    distance = torch.where(table[-1] > -torch.inf, distance, length + 1)
    allowed = distance == distance.amin(-1, keepdim=True)
    left = rng.categorical(torch.where(allowed, table[-1], -torch.inf))  # (B,)
    before, after = table[:-1], table[1:]  # (L, B, L + 1)
    p = torch.zeros_like(before)  # (1) for every count that may be left
    p[..., 1:] = (change.T[..., None] + before[..., :-1] - after[..., 1:]).exp().clamp(max=1.0)
    p = torch.where(stay.T[..., None] + before == -torch.inf, 1.0, p)  # rounding must not lose the last way out
    left, taken = left[:, None], []
    for chance in reversed(p.unbind()):
        take = rng.bernoulli(chance.gather(1, left)[:, 0])[:, None]
        left = left - take.long()
        taken.append(take)
    return torch.cat(taken[::-1], -1)


def inclusion(stay: Tensor, count: Tensor) -> Tensor:
    """log π_i, π_i = P(i ∈ D | |D| = count) = d_i R_{m−1}(d without i)/R_m(d), (B, L) float64; Σ_i π_i = count if it is possible."""
    length = stay.shape[1]
    forward = differing_table(stay, length)
    backward = differing_table(stay.flip(-1), length)  # (j, B, k): the last j positions
    change = log1mexp(stay.double())
    k = torch.arange(length + 1, device=stay.device)
    other = count[:, None] - 1 - k  # (B, L + 1) what the positions after i must contribute
    rows = torch.arange(len(stay), device=stay.device)
    total = forward[-1][rows, count.clamp(0, length)]
    result = []
    for i in range(length):
        rest = backward[length - 1 - i].gather(1, other.clamp(min=0))
        terms = torch.where(other >= 0, forward[i] + rest, -torch.inf)
        result.append(change[:, i] + terms.logsumexp(-1) - total)
    log_share = torch.stack(result, -1)
    return torch.where(total[:, None] > -torch.inf, log_share, -torch.inf)  # no such set: nothing is included
