"""A mask process's prediction restricted to a `Law`: drawn exactly, and weighed against the prediction without the law.

The product, the weights and the floor are those of `shaping.restricted`, whose numbers are quoted here; C is the law's set of texts,
and Z is summed by `joint`.

*No token twice.*  That all tokens differ is a sum over permutations that nobody can compute (a permanent), so the draw goes on in
turn.  What stands is barred: q̃ is without it.

- Where tokens are plenty (`Law.ample`), letters and rhyme words are drawn by (1), then the tokens from left to right, each
  from q̃_i within its letter and without those drawn before.  (2) leaves out what the latter bar, so it is exact for steps
  of one position and nearly so for others.
- Else each asked position is drawn by (1) alone, from left to right, without the tokens after which no text of C is left
  (`Law.able`, an exact test), and (2) is the sum over these draws, exact for any number of positions.

Neither is (1) with C reduced to texts without repeats, where a step writes several positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from textdiff.core.contracts import Positions, Predictor, Query
from textdiff.core.predictions import TokenPredictor
from textdiff.core.rng import Rng
from textdiff.shaping.restricted import Restricted, asked_of
from textdiff.verse.joint import Ends, Joint
from textdiff.verse.law import LETTERS, LEVEL, Law, W, present
from textdiff.verse.rhymes import RhymeTable


def constrained(predictor: TokenPredictor, law: Law, weigh: bool = False) -> Predictor:
    """`predictor` of a mask process, with its predictions restricted to `law`.

    It is asked not only where a step writes but wherever the draw depends on (`Law.coupled`).  The weights (2) are worked
    out if `weigh`; else they are 0.
    """

    def predict(query: Query) -> RestrictedPrediction:
        x_t = query.x_t
        base, asked = asked_of(predictor, query, lambda asked: law.coupled(x_t, asked & (x_t == law.unread)))
        return RestrictedPrediction(base, law, asked, base.known, weigh)

    return predict


@dataclass(frozen=True)
class RestrictedPrediction(Restricted):
    """The product `base` restricted to a law of verse."""

    law: Law
    allowed: Tensor | None = None  # (B, V) bool: the tokens that a row may take at its asked positions; None for all

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
        mass = self._joint.log_mass() + self.log_kept()
        if self._in_turn:
            standing = torch.where(self.opened, self.law.unread, self.base.known)
            mass = torch.where(self.law.completable(standing), mass, -torch.inf)
        return mass

    # -- all asked positions at once --------------------------------------------------------------------------------------

    def _draw_together(self, rng: Rng) -> Tensor:
        law, open_ = self.law, self.opened
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
        weights = self.q(keep) * law.fitting[letter[rows, positions] - LEVEL]
        if not law.no_repeat:
            return x.index_put((rows, positions), rng.weighted(weights, at=(rows, positions)))
        for column in range(x.shape[1]) if rng.lockstep else positions.unique().tolist():
            here = (positions == column).nonzero()[:, 0]
            at = (rows[here], positions[here])
            rng.counter = column  # whichever columns the other rows ask for
            waiting = where & (torch.arange(x.shape[1], device=x.device) >= column)
            barred = present(torch.where(waiting, law.unread, x), len(law.letter))[rows[here]]
            token = rng.weighted(weights[here].masked_fill(barred, 0.0), at=at)
            x = x.index_put(at, token)
        return x

    def _log_weight_together(self, x: Tensor) -> Tensor:
        joint = self._joint
        return self.log_kept() + joint.log_mass() - joint.with_tokens(x).log_mass()

    # -- one asked position after another ---------------------------------------------------------------------------------

    @property
    def _in_turn(self) -> bool:
        return self.law.no_repeat and not self.law.ample and self.allowed is None

    def _alone(self, x: Tensor, column: int) -> RestrictedPrediction:
        """The prediction at one column, once x (B, L) stands at the asked positions to its left."""
        written = self.asked & self.opened
        before = written & (torch.arange(x.shape[1], device=x.device) < column)
        part = replace(self.pin(x, before), asked=written & self._column(column), shown=x)
        now = torch.where(part.opened, self.law.unread, part.base.known)
        allowed = torch.ones(len(x), len(self.law.letter), dtype=torch.bool, device=x.device)
        there = part.asked.any(-1).nonzero()[:, 0]
        allowed[there] = self.law.able(now[there], column)
        return replace(part, allowed=allowed)

    def _column(self, column: int) -> Tensor:
        return torch.arange(self.asked.shape[1], device=self.asked.device) == column

    # -- what the prediction says -----------------------------------------------------------------------------------------

    @cached_property
    def barred(self) -> Tensor:
        """The tokens that may not be written at the base's positions, (N, V) bool."""
        law, (rows, _) = self.law, self.base.at
        barred = ~law.writable[None]
        if law.no_repeat:
            standing = torch.where(self.opened, law.unread, self.base.known)
            barred = barred | present(standing, len(law.letter))[rows]
        if self.allowed is not None:
            barred = barred | (self.asked[self.base.at][:, None] & ~self.allowed[rows])
        return barred

    @cached_property
    def _joint(self) -> Joint:
        law, at, (q, which) = self.law, self.base.at, self.laws
        letters = one_hot(law.known(self.base.known), LETTERS).double()
        letters = letters.index_put(at, (q @ law.lettering.to(q.dtype)).double()[which])
        words = None if law.rhymes is None else _ends(law, law.rhymes, self.base.known, at, self.q)
        return Joint(law, self.opened, self.asked & self.opened, letters, words)


def _ends(law: Law, table: RhymeTable, known: Tensor, at: Positions, q: Callable[[Tensor], Tensor]) -> Ends:
    """What stands at the law's ends in `known` (B, L), and the laws q(index (n,)) (n, V) of some of the positions `at`."""
    ends = torch.tensor(law.ends, device=known.device)
    standing = known[:, ends]
    slot = torch.full((known.shape[1],), -1, device=known.device)
    slot[ends] = torch.arange(len(ends), device=known.device)
    chosen = (slot[at[1]] >= 0).nonzero()[:, 0]
    where = (at[0][chosen], slot[at[1][chosen]])
    weights = torch.zeros(*standing.shape, len(table.tokens), dtype=torch.float64, device=known.device)
    weights[where] = q(chosen).index_select(1, table.tokens).double()
    there = (law.known(standing) != W).index_put(where, torch.tensor(True, device=known.device))
    return Ends(weights, table.place[standing], there)
