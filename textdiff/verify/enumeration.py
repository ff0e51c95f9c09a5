"""`Enumerating` stands in for `Rng` and walks through every outcome of every discrete draw with its weight.

Run under it, a function that draws gives its exact law, and nothing here knows what the function does.  A path is the list of
outcomes that a row has chosen.  A row beyond its prescribed prefix takes the first possible outcome and leaves the others
behind as new prefixes, so that every leaf of the tree is visited once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from textdiff.core.contracts import Positions
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng, unnormalised

ROWS = 20_000  # paths walked at a time


class Enumerating(Rng):
    """An `Rng` whose rows follow prescribed outcomes; prefixes (B, D) with −1 where nothing is prescribed.

    `length` is the number of positions of a text: every row makes that many draws in `categorical`, needed or not, so
    that the k-th draw of a path means the same whichever rows stand beside it.
    """

    lockstep = True

    def __init__(self, prefixes: Tensor, length: int):
        self.length = length
        self.keys = torch.zeros(len(prefixes), dtype=torch.long)
        self.prefixes = prefixes
        self.weight = torch.ones(len(prefixes), dtype=torch.float64)
        self.path: list[Tensor] = []
        self.open: list[tuple[int, Tensor, Tensor]] = []  # (depth, rows, other outcomes)

    def rows(self, index: Tensor) -> Rng:
        """For the rows `index` alone; the others take the only outcome of a draw that is none."""
        return _Part(self, index)

    def branch(self) -> Rng:
        """Itself: the path tells the draws apart."""
        return self

    def advance(self, rows: Tensor) -> None:
        """Nothing: the path tells the draws apart."""

    def rewind(self) -> None:
        """Nothing."""

    def choose(self, weights: Tensor) -> Tensor:
        """One outcome per row with probability ∝ weights (B, K)."""
        weights = weights.double()
        depth = len(self.path)
        chosen = self.prefixes[:, depth] if depth < self.prefixes.shape[1] else torch.full_like(self.keys, -1)
        fresh = (chosen < 0).nonzero()[:, 0]
        if len(fresh):
            possible = weights.index_select(0, fresh) > 0
            first = possible.byte().argmax(-1)
            chosen = chosen.index_copy(0, fresh, first)
            rows, others = (possible & (torch.arange(weights.shape[1]) != first[:, None])).nonzero(as_tuple=True)
            if len(rows):
                self.open.append((depth, fresh[rows], others))
        self.path.append(chosen)
        total = weights @ weights.new_ones(weights.shape[1])
        self.weight = self.weight * (weights.gather(1, chosen[:, None])[:, 0] / total)
        return chosen

    def pass_over(self) -> None:
        """A draw in which every row has the first outcome alone."""
        self.path.append(torch.zeros_like(self.keys))

    def branches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(row, prefix) of everything left behind."""
        width = len(self.path)
        path = torch.stack(self.path, -1) if width else torch.zeros(len(self.keys), 0, dtype=torch.long)
        for depth, rows, outcomes in self.open:
            prefix = torch.full((len(rows), width), -1)
            prefix[:, :depth] = path[:, :depth].index_select(0, rows)
            prefix[:, depth] = outcomes
            yield rows, prefix

    def uniform(self, *shape: int) -> Tensor:
        raise AskedError(
            "a continuous draw (uniform, normal) cannot be enumerated; "
            "draw with rng.ranks, subset, successive, bernoulli, integers or categorical"
        )

    def uniform_at(self, rows: Tensor, positions: Tensor) -> Tensor:
        return self.uniform()

    def normal(self, *shape: int) -> Tensor:
        return self.uniform()

    def bernoulli(self, p: Tensor) -> Tensor:
        if p.ndim == 1:
            return self.choose(torch.stack([1 - p, p], -1)) == 1
        return torch.stack([self.bernoulli(p[:, i]) for i in range(p.shape[1])], -1)

    def integers(self, high: Tensor) -> Tensor:
        span = torch.arange(int(high.max()))
        return torch.stack([self.choose((span < high[:, i, None]).double()) for i in range(high.shape[1])], -1)

    def ranks(self, free: Tensor, first: Tensor | None = None) -> Tensor:
        length = free.shape[1]
        orders = torch.tensor(list(itertools.permutations(range(length))))  # (L!, L)
        group = torch.where(free, 1, 2) if first is None else torch.where(free, torch.where(first, 0, 1), 2)
        inside = torch.where(free, 0, torch.arange(1, length + 1))  # the others keep their places
        key = (group * (length + 1) + inside)[:, orders]  # (B, L!, L)
        order = orders[self.choose((key.diff(dim=-1) >= 0).all(-1).double())]
        place = torch.empty_like(order).scatter(-1, order, torch.arange(length).expand_as(order))
        return torch.where(free, (place.double() + 0.5) / free.sum(-1, keepdim=True), torch.inf)

    def subset(self, among: Tensor, size: Tensor) -> Tensor:
        sets = torch.tensor(list(itertools.product([False, True], repeat=among.shape[1])))  # (2^L, L)
        fits = ~(sets & ~among[:, None]).any(-1) & (sets.sum(-1) == torch.minimum(size, among.sum(-1))[:, None])
        return sets[self.choose(fits.double())]

    def successive(self, log_weight: Callable[[Tensor], Tensor], among: Tensor, size: Tensor) -> Tensor:
        length, weight = among.shape[1], torch.where(among, log_weight(among), -torch.inf)
        chosen = torch.zeros(len(size), length + 1, dtype=torch.bool)  # the last column: no more
        for k in range(length):
            left = torch.where(chosen[:, :-1], -torch.inf, weight)
            idle = ((k >= size) | (left == -torch.inf).all(-1))[:, None]
            table = torch.cat([torch.where(idle, -torch.inf, left), torch.where(idle, 0.0, -torch.inf)], -1)
            chosen = chosen.scatter(-1, self.choose(unnormalised(table))[:, None], True)
        return chosen[:, :-1]

    def categorical(self, logits: Tensor | Callable[[Tensor], Tensor], at: Positions | None = None) -> Tensor:
        read = logits(torch.arange(len(at[0]))) if callable(logits) and at is not None else logits
        return self.weighted(unnormalised(read), at)  # type: ignore[arg-type]

    def chain(self, n: int, weights: Callable[[int, Tensor | None], Tensor], at: Positions) -> list[Tensor]:
        result: list[Tensor] = []
        for k in range(n):
            result.append(self.weighted(weights(k, result[-1] if k else None), at))
        return result

    def weighted(self, weights: Tensor, at: Positions | None = None) -> Tensor:
        if at is None:
            return self.choose(weights)
        table, rows = weights, at[0]
        index = torch.arange(len(rows))
        slot = index - torch.searchsorted(rows, rows)  # the number of the draw within its row
        result = torch.zeros_like(rows)
        for k in range(self.length):
            here = slot == k
            if not here.any():
                self.pass_over()
                continue
            weights = torch.zeros(len(self.keys), table.shape[1], dtype=table.dtype)
            weights[:, 0] = 1.0
            weights[rows[here]] = table[here]
            result[here] = self.choose(weights)[rows[here]]
        return result


class _Part(Enumerating):
    """Some rows of an enumeration."""

    def __init__(self, whole: Enumerating, index: Tensor):
        self.whole, self.index, self.length = whole, index, whole.length
        self.keys = whole.keys[index]

    def choose(self, weights: Tensor) -> Tensor:
        table = torch.zeros(len(self.whole.keys), weights.shape[1], dtype=torch.float64)
        table[:, 0] = 1.0
        table[self.index] = weights.double()
        return self.whole.choose(table)[self.index]

    def pass_over(self) -> None:
        self.whole.pass_over()


def enumerate_draws(
    f: Callable[[Tensor, Rng], Tensor], items: Tensor, length: int, make: Callable[..., Enumerating] = Enumerating
) -> tuple[Tensor, Tensor, Tensor]:
    """All outcomes of the random function f(items (R,), rng) -> (R,) integers: (item index, outcome, probability).

    `make` builds the rng from prefixes and length.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    waiting = [(torch.arange(len(items)), torch.zeros(len(items), 0, dtype=torch.long))]
    while waiting:
        index, prefixes = waiting.pop()
        if len(index) > ROWS:
            waiting.append((index[ROWS:], prefixes[ROWS:]))
            index, prefixes = index[:ROWS], prefixes[:ROWS]
        rng = make(prefixes, length)
        before = torch.random.get_rng_state()
        outcome = f(items[index], rng)
        if not torch.equal(before, torch.random.get_rng_state()):
            raise AskedError(
                "something drew from torch's own generator; every draw must come from the rng it is handed"
            )
        found.append((index, outcome, rng.weight))
        branches = list(rng.branches())
        if branches:
            waiting.append((index[torch.cat([r for r, _ in branches])], torch.cat([p for _, p in branches])))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))  # type: ignore[return-value]
