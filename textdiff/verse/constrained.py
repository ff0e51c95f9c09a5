"""A mask process's prediction restricted to a `Law`: drawn exactly, and weighed against the prediction without the law.

The prediction is a product of independent positions, q(x) = Π q_i(x_i).  With q̃_i = q_i without the tokens that are never
written, normalised, and C the law's set of texts, a step draws at the asked positions from

    q_C(x) = q̃(x) · 1[x ∈ C] / Z,        Z = Σ_{x ∈ C} q̃(x)                                                           (1)

summed over the positions that are not asked, by the sums of `joint`.  Whatever a row has revealed can therefore be
completed; nothing is rejected, and nothing is repaired.

*Weights.*  A chain of such steps has not the law p(x0 | C), because its marginals do not know C.  Let a step write x_a at the
asked positions, Z the mass before it, Z(x_a) the mass under the same prediction once x_a stands, and k_i the mass that q_i
gives to the tokens that may be written.  The step's probability times its weight is then Π q_i(x_i) over the asked positions,

    log w = log Z − log Z(x_a) + Σ_{asked i} log k_i                                                                  (2)

so that chains of one position a step, resampled by w, follow p(x0 | C).

*No token twice.*  That all tokens differ is a sum over permutations that nobody can compute (a permanent), so the draw goes on in
turn.  What stands is barred: q̃ is without it.

- Where tokens are plenty (`Law.ample`), letters and rhyme words are drawn by (1), then the tokens from left to right, each
  from q̃_i within its letter and without those drawn before.  (2) leaves out what the latter bar, so it is exact for steps
  of one position and nearly so for others.
- Else each asked position is drawn by (1) alone, from left to right, without the tokens after which no text of C is left
  (`Law.able`, an exact test), and (2) is the sum over these draws, exact for any number of positions.

Neither is (1) with C reduced to texts without repeats, where a step writes several positions.

*The floor.*  A token that q_i all but excludes keeps some mass, so that it can be drawn where C allows nothing else.  With
d = log(q_i(v) / max q_i) and f = log 1e-12, a token with d < f counts as

    f − 4 · min(log(1 + f − d), 11)                                                                                   (3)

in the place of d: less than 1e-12 of the likeliest token, in the same order, and never 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from textdiff.core.contracts import OfLogits, Positions, Predictor, Query
from textdiff.core.predictions import Categorical, OnlyDrawn, TokenPredictor, positions_of
from textdiff.core.rng import Rng
from textdiff.verse.joint import Joint
from textdiff.verse.law import LETTERS, LEVEL, Law, W, present
from textdiff.verse.rhymes import LEAST, RhymeTable

TAIL, DEEPEST = 4, 11.0  # the numbers of (3)


def constrained(predictor: TokenPredictor, law: Law, weigh: bool = False) -> Predictor:
    """`predictor` of a mask process, with its predictions restricted to `law`.

    It is asked not only where a step writes but wherever the draw depends on (`Law.coupled`).  The weights (2) are worked
    out if `weigh`; else they are 0.
    """

    def predict(query: Query) -> RestrictedPrediction:
        x_t, at = query.x_t, query.at
        asked = torch.ones_like(x_t, dtype=torch.bool)
        if at is not None:
            asked = torch.zeros_like(asked).index_put(at, torch.tensor(True, device=x_t.device))
        read = positions_of(law.coupled(x_t, asked & (x_t == law.unread)) | asked)
        base = predictor(replace(query, at=read)).by_token()
        return RestrictedPrediction(base, law, asked, base.known, weigh)

    return predict


@dataclass(frozen=True)
class RestrictedPrediction(OnlyDrawn):
    """The product `base` restricted to `law` (1), to be drawn at `asked`; elsewhere a draw shows `shown`."""

    base: Categorical
    law: Law
    asked: Tensor  # (B, L) bool
    shown: Tensor  # (B, L)
    weigh: bool = True
    allowed: Tensor | None = None  # (B, V) bool: the tokens that a row may take at its asked positions; None for all

    @property
    def known(self) -> Tensor:
        return self.base.known

    def pin(self, x: Tensor, where: Tensor) -> RestrictedPrediction:
        """The prediction with x (B, L) certain at `where` (B, L) bool."""
        return replace(
            self, base=self.base.pin(x, where), asked=self.asked & ~where, shown=torch.where(where, x, self.shown)
        )

    def by_token(self) -> RestrictedPrediction:
        return self

    def select(self, where: Tensor, known: Tensor | None = None) -> RestrictedPrediction:
        """The law of the tokens at `where` (B, L) bool alone."""
        return replace(self, asked=self.asked & where, shown=self.shown if known is None else known)

    def map(self, shape: OfLogits) -> RestrictedPrediction:
        """The restriction of a product with other logits."""
        return replace(self, base=self.base.map(shape))

    def log_prob(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """That of the product without the law."""
        return self.base.log_prob(*tokens)

    def statistic(self, f: OfLogits, fill: float = 0.0) -> Tensor:
        """That of the product without the law, position by position."""
        return self.base.statistic(f, fill)

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 ~ q_C, (B, L)."""
        if not self._in_turn:
            return self._draw_together(rng)
        x = self.shown
        for column in range(x.shape[1]):
            part, own = self._alone(x, column), rng.branch()
            if part.asked.any() or rng.lockstep:
                x = part._draw_together(own)
        return x

    def log_weight(self, x: Tensor) -> Tensor:
        """(2) of a step that put x's tokens at the asked positions, (B,) float64, nats."""
        if not self.weigh:
            return self.base.log_weight(x)
        if self._in_turn:
            parts = [self._alone(x, k) for k in range(x.shape[1])]
            return torch.stack([part._log_weight_together(x) for part in parts]).sum(0)
        return self._log_weight_together(x)

    def log_mass(self) -> Tensor:
        """log Σ_{x ∈ C} q(x) over the asked positions, which is log Z + Σ log k_i of (2), up to factors of positions that no asked
        one depends on, (B,) float64."""
        mass = self._joint.log_mass() + self._log_kept()
        if self._in_turn:
            standing = torch.where(self._open, self.law.unread, self.base.known)
            mass = torch.where(self.law.completable(standing), mass, -torch.inf)
        return mass

    # -- all asked positions at once --------------------------------------------------------------------------------------

    def _draw_together(self, rng: Rng) -> Tensor:
        law, open_ = self.law, self._open
        chance, words, tokens = rng.branch(), rng.branch(), rng.branch()
        x, asked = self.shown, self.asked & open_
        left = law.alive(torch.where(open_, W, law.known(self.base.known)))
        one, untied = law.settled(left, asked)
        touched = asked.view(len(x), law.lines, law.width).any(-1)
        coupled = asked.any(-1) & ~(one & (untied | ~touched).all(-1))
        letter = law.required(left)
        there = coupled.nonzero()[:, 0]
        if len(there) or rng.lockstep:
            drawn, ends, wanted = self._joint.rows(there).draw(chance.rows(there), words.rows(there))
            letter[there] = drawn
            if law.rhymes is not None:
                at = (there[:, None], torch.tensor(law.ends, device=x.device))
                x = x.index_put(at, torch.where(wanted, ends, x[at]))
                asked = asked.index_put(at, asked[at] & ~wanted)
        return self._draw_tokens(x, letter, asked, tokens)

    def _draw_tokens(self, x: Tensor, letter: Tensor, where: Tensor, rng: Rng) -> Tensor:
        """x with tokens of these letters (B, L) at `where` (B, L) bool."""
        law, (rows, positions) = self.law, self.base.at
        keep = where[rows, positions].nonzero()[:, 0]
        rows, positions = rows[keep], positions[keep]
        fits = law.fitting[letter[rows, positions] - LEVEL]
        logits = torch.where(fits, self._q[keep], 0.0).log()
        if not law.no_repeat:
            return x.index_put((rows, positions), rng.categorical(logits, at=(rows, positions)))
        for column in range(x.shape[1]) if rng.lockstep else positions.unique().tolist():
            here = (positions == column).nonzero()[:, 0]
            at = (rows[here], positions[here])
            rng.counter = column  # whichever columns the other rows ask for
            waiting = where & (torch.arange(x.shape[1], device=x.device) >= column)
            barred = present(torch.where(waiting, law.unread, x), len(law.letter))[rows[here]]
            token = rng.categorical(logits[here].masked_fill(barred, -torch.inf), at=at)
            x = x.index_put(at, token)
        return x

    def _log_weight_together(self, x: Tensor) -> Tensor:
        joint = self._joint
        return self._log_kept() + joint.log_mass() - joint.with_tokens(x).log_mass()

    def _log_kept(self) -> Tensor:
        """Σ over the asked positions of log k_i of (2), (B,) float64."""
        (rows, _), logits = self.base.at, self.base.logits().double()
        kept = logits.masked_fill(self._barred, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)
        kept = torch.where(self.asked[self.base.at], kept.clamp(min=math.log(LEAST)), 0.0)
        return kept.new_zeros(len(self.asked)).index_add(0, rows, kept)

    # -- one asked position after another ---------------------------------------------------------------------------------

    @property
    def _in_turn(self) -> bool:
        return self.law.no_repeat and not self.law.ample and self.allowed is None

    def _alone(self, x: Tensor, column: int) -> RestrictedPrediction:
        """The prediction at one column, once x (B, L) stands at the asked positions to its left."""
        written = self.asked & self._open
        before = written & (torch.arange(x.shape[1], device=x.device) < column)
        part = replace(self.pin(x, before), asked=written & self._column(column), shown=x)
        now = torch.where(part._open, self.law.unread, part.base.known)
        allowed = torch.ones(len(x), len(self.law.letter), dtype=torch.bool, device=x.device)
        there = part.asked.any(-1).nonzero()[:, 0]
        allowed[there] = self.law.able(now[there], column)
        return replace(part, allowed=allowed)

    def _column(self, column: int) -> Tensor:
        return torch.arange(self.asked.shape[1], device=self.asked.device) == column

    # -- what the prediction says -----------------------------------------------------------------------------------------

    @cached_property
    def _open(self) -> Tensor:
        """Where the base has a law, (B, L) bool."""
        empty = torch.zeros_like(self.asked)
        return empty.index_put(self.base.at, torch.tensor(True, device=empty.device))

    @cached_property
    def _barred(self) -> Tensor:
        """The tokens that may not be written at the base's positions, (N, V) bool."""
        law, (rows, _) = self.law, self.base.at
        barred = ~law.writable[None]
        if law.no_repeat:
            standing = torch.where(self._open, law.unread, self.base.known)
            barred = barred | present(standing, len(law.letter))[rows]
        if self.allowed is not None:
            barred = barred | (self.asked[self.base.at][:, None] & ~self.allowed[rows])
        return barred

    @cached_property
    def _q(self) -> Tensor:
        """q̃ at the base's positions, with the floor (3), (N, V)."""
        kept = self.base.logits().masked_fill(self._barred, -torch.inf)
        top = kept.amax(-1, keepdim=True)
        kept = kept - torch.where(top > -torch.inf, top, 0.0)
        floor = math.log(LEAST)
        deep = (kept < floor) & ~self._barred
        q = torch.exp(kept)
        if deep.any():
            q[deep] = torch.exp(floor - TAIL * torch.log1p(floor - kept[deep]).clamp(max=DEEPEST))
        return q / q.sum(-1, keepdim=True)

    @cached_property
    def _joint(self) -> Joint:
        law, at, q = self.law, self.base.at, self._q
        letters = one_hot(law.known(self.base.known), LETTERS).double()
        letters = letters.index_put(at, (q @ one_hot(law.letter, LETTERS).to(q.dtype)).double())
        words = None if law.rhymes is None else _end_weights(law, law.rhymes, self.base.known, at, q)
        return Joint(law, self._open, self.asked & self._open, letters, words)


def _end_weights(law: Law, table: RhymeTable, known: Tensor, at: Positions, q: Tensor) -> tuple[Tensor, Tensor]:
    """At the law's R ends: weights of the C rhyme tokens (B, R, C), and whether a token or a law is known (B, R) bool.

    `known` (B, L) are the tokens that stand, q (N, V) the laws at the positions `at`.
    """
    ends = torch.tensor(law.ends, device=known.device)
    size = len(table.tokens)
    weights = one_hot(table.place[known[:, ends]], size + 1)[..., :size].double()
    there = law.known(known[:, ends]) != W
    slot = torch.full((known.shape[1],), -1, device=known.device)
    slot[ends] = torch.arange(len(ends), device=known.device)
    chosen = (slot[at[1]] >= 0).nonzero()[:, 0]
    where = (at[0][chosen], slot[at[1][chosen]])
    weights = weights.index_put(where, q[chosen][:, table.tokens].double())
    return weights, there.index_put(where, torch.tensor(True, device=known.device))
