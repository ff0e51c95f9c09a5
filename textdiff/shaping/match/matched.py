"""A mask process's prediction restricted to the texts that match an expression (`trellis`): drawn exactly, and weighed.

The product, its weights and the floor are those of `restricted`; C is the set of texts that the trellis of a row accepts, and Z is
β_0 of its sums.  At temperature 0 the draw is the limit of that law: the likeliest text that matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Query
from textdiff.core.predictions import TokenPredictor
from textdiff.core.rng import Rng
from textdiff.shaping.match.trellis import Trellis
from textdiff.shaping.restricted import Restricted, asked_of


@dataclass(frozen=True, eq=False)
class Accepted:
    """The texts that B rows may come to: each has one of a few trellises."""

    trellises: tuple[Trellis, ...]
    of_row: Tensor  # (B,) the number of a row's trellis
    unread: int  # the id that an open position shows
    never: Tensor  # (V,) bool: tokens that are written nowhere

    @classmethod
    def alike(cls, trellis: Trellis, rows: int, unread: int, never: Tensor) -> Accepted:
        """Rows of one trellis."""
        return cls((trellis,), torch.zeros(rows, dtype=torch.long, device=never.device), unread, never)

    def parts(self) -> Iterator[tuple[Trellis, Tensor]]:
        """Each trellis with the rows (n,) that have it."""
        for k, trellis in enumerate(self.trellises):
            yield trellis, (self.of_row == k).nonzero()[:, 0]

    def coupled(self, x: Tensor, asked: Tensor) -> Tensor:
        """The open positions of x (B, L) that a draw at `asked` (B, L) bool depends on, these included, (B, L) bool."""
        result = asked.clone()
        for trellis, rows in self.parts():
            places, open_ = trellis.position, x[rows] == self.unread
            needed = trellis.coupled(x[rows], open_, (asked[rows] & open_)[:, places])
            result[rows[:, None], places] |= needed & open_[:, places]
        return result

    def possible(self, x: Tensor) -> Tensor:
        """Whether x (B, L) can be completed to a text that matches, (B,) bool."""
        result = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for trellis, rows in self.parts():
            result[rows] = trellis.possible(x[rows], x[rows] == self.unread)
        return result


def matching(predictor: TokenPredictor, texts: Accepted, weigh: bool = False, best: bool = False) -> Predictor:
    """`predictor` of a mask process, with its predictions restricted to `texts`.

    It is asked not only where a step writes but wherever the draw depends on.  With `best` the likeliest text is taken in the place
    of a draw; else the weights of `restricted` are worked out if `weigh`.
    """

    def predict(query: Query) -> Matched:
        base, asked = asked_of(predictor, query, lambda asked: texts.coupled(query.x_t, asked))
        return Matched(base, texts, asked, base.known, weigh and not best, best)

    return predict


@dataclass(frozen=True)
class Matched(Restricted):
    """The product `base` restricted to accepted texts."""

    law: Accepted
    best: bool = False

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 ~ q_C, (B, L), or the likeliest text of C."""
        chance, tokens = rng.branch(), rng.branch()
        asked = (self.asked & self.opened)[self.base.at]
        fits = ~self.barred
        for part, rows in self._parts:
            if part.by_place or rng.lockstep:
                classes = part.trellis.draw(part.masses, chance.rows(rows), self.best, part.chance(self.base.at[0]))
                for k, (entries, of_token) in part.by_place.items():
                    drawn = classes[part.row_of[self.base.at[0][entries]], k]
                    fits[entries] &= of_token == drawn[:, None]
        keep = asked.nonzero()[:, 0]
        at = (self.base.at[0][keep], self.base.at[1][keep])
        logits = torch.where(fits[keep], self.q(keep), 0.0).log()
        token = logits.argmax(-1) if self.best else tokens.categorical(logits, at=at)
        return self.shown.index_put(at, token)

    def log_weight(self, x: Tensor) -> Tensor:
        """The weight of a step that put x's tokens at the asked positions, (B,) float64, nats."""
        if not self.weigh:
            return self.base.log_weight(x)
        result = self.log_kept()
        for part, rows in self._parts:
            before = part.trellis.log_sums(part.masses)[0][:, 0]
            after = part.trellis.log_sums(part.once(x[rows], self.asked[rows] & self.opened[rows]))[0][:, 0]
            result = result.index_add(0, rows, before - after)
        return result

    @cached_property
    def barred(self) -> Tensor:
        """The tokens that no text of C has at the base's positions, (N, V) bool."""
        rows, positions = self.base.at
        barred = self.law.never.expand(len(rows), -1).clone()
        for trellis, members in self.law.parts():
            inside = torch.isin(rows, members)
            for p, of_token in zip(trellis.position.tolist(), trellis.classes, strict=True):
                barred[inside & (positions == p)] |= of_token == 0
        return barred

    @cached_property
    def _parts(self) -> list[tuple[_Part, Tensor]]:
        """What the product says of the classes of each trellis, and of which rows."""
        return [(_Part.of(self, trellis, rows), rows) for trellis, rows in self.law.parts()]


@dataclass(frozen=True, eq=False)
class _Part:
    """What a prediction says of b rows that have the same trellis."""

    trellis: Trellis
    row_of: Tensor  # (B,) the number of a row among the b
    by_place: dict[
        int, tuple[Tensor, Tensor]
    ]  # entries (n,) of the prediction at a place, and the class of each token (V,)
    masses: list[Tensor]  # log m_j of the trellis, (b, K_j) for each place

    @classmethod
    def of(cls, whole: Matched, trellis: Trellis, rows: Tensor) -> _Part:
        """Of a prediction's `rows` (b,)."""
        known, unread = whole.base.known[rows], whole.law.unread
        row_of = torch.zeros_like(whole.law.of_row).index_put((rows,), torch.arange(len(rows), device=rows.device))
        inside = torch.isin(whole.base.at[0], rows)
        by_place = {}
        for k, (p, of_token) in enumerate(zip(trellis.position.tolist(), trellis.classes, strict=True)):
            entries = (inside & (whole.base.at[1] == p)).nonzero()[:, 0]
            if len(entries):
                by_place[k] = (entries, of_token)
        masses = [_certain(one) for one in trellis.choices(known, known == unread)]
        for k, (entries, of_token) in by_place.items():
            size = trellis.following[k].shape[1]
            mass = _class_masses(whole.q(entries), of_token, size, whole.best)
            masses[k] = masses[k].index_put((row_of[whole.base.at[0][entries]],), mass)
        return cls(trellis, row_of, by_place, masses)

    def chance(self, entry_rows: Tensor) -> list[Tensor]:
        """For each place the rows (n,) of the b of which the prediction says something there; `entry_rows` (N,) are its own."""
        none = self.row_of[:0]
        return [
            self.row_of[entry_rows[self.by_place[k][0]]] if k in self.by_place else none
            for k in range(len(self.masses))
        ]

    def once(self, x: Tensor, where: Tensor) -> list[Tensor]:
        """The masses once x (b, L) stands at `where` (b, L) bool."""
        places, standing = self.trellis.position.tolist(), self.trellis.choices(x, ~where)
        return [
            torch.where(where[:, p, None], _certain(one), mass)
            for p, one, mass in zip(places, standing, self.masses, strict=True)
        ]


def _certain(can: Tensor) -> Tensor:
    """Log masses of 0 where something can be, and else of −inf."""
    return torch.where(can, 0.0, -torch.inf).double()


def _class_masses(q: Tensor, of_token: Tensor, size: int, best: bool) -> Tensor:
    """log m(c) of laws q (n, V), (n, size): the sum over the tokens of a class, or the largest of them if `best`."""
    mass = torch.zeros(len(q), size, dtype=torch.float64, device=q.device)
    if best:
        mass = mass.scatter_reduce(1, of_token.expand(len(q), -1), q.double(), "amax")
    else:
        mass = mass.index_add(1, of_token, q.double())
    mass[:, 0] = 0.0
    return mass.log()
