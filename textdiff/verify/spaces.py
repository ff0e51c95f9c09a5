"""Spaces of texts small enough to enumerate, and what is exact on them.

The very `noise` and `corrupt` that ship give p(x_t | x0), from which the perfect factorised predictor follows by Bayes' rule, and
with it the exact expectation of a process's bound.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.verify.enumeration import enumerate_draws


@dataclass(frozen=True, eq=False)
class Space:
    """All texts of L positions over tokens 0 … V − 1, and [MASK] = V; a text is coded in base V + 1."""

    length: int
    size: int
    p0: Tensor  # (V + 1)^L probabilities over codes, 0 for codes with a mask
    free: Tensor | None = None  # (L,) bool, everywhere by default; elsewhere the texts of p0 agree

    @classmethod
    def random(cls, length: int, size: int, seed: int = 0, concentration: float = 0.5) -> Space:
        """A Dirichlet-like law: normalised powers of uniforms, every text possible."""
        texts = torch.tensor(list(itertools.product(range(size), repeat=length)))
        weight = Rng([seed]).uniform(len(texts))[0].pow(1 / concentration) + 1e-3
        space = cls(length, size, torch.zeros((size + 1) ** length, dtype=torch.float64))
        space.p0[space.code(texts)] = weight / weight.sum()
        return space

    def code(self, x: Tensor) -> Tensor:
        """The code of each text of x (B, L), (B,)."""
        return (x * (self.size + 1) ** torch.arange(self.length)).sum(-1)

    def decode(self, code: Tensor) -> Tensor:
        """The texts of codes (B,), (B, L)."""
        return code[:, None] // (self.size + 1) ** torch.arange(self.length) % (self.size + 1)

    @property
    def entropy(self) -> float:
        """Of p0, nats."""
        return float(torch.special.entr(self.p0).sum())

    def support(self) -> Tensor:
        """The codes of all texts that p0 allows."""
        return self.p0.nonzero()[:, 0]

    def given_first(self) -> Space:
        """The law of the texts that begin with token 0, which is given."""
        begins = self.decode(torch.arange(len(self.p0)))[:, 0] == 0
        p0 = torch.where(begins, self.p0, 0.0)
        return replace(self, p0=p0 / p0.sum(), free=torch.arange(self.length) > 0)

    def free_of(self, x: Tensor) -> Tensor:
        """`free` for every row of x (B, L), (B, L)."""
        return torch.ones_like(x, dtype=torch.bool) if self.free is None else self.free.expand(len(x), -1)

    @property
    def n(self) -> int:
        """The number of free positions."""
        return self.length if self.free is None else int(self.free.sum())


def corrupted_law(space: Space, process: Process, level: float) -> Tensor:
    """p(x_t | x0) by running the process's own noise and corrupt, (codes of x0, codes of x_t)."""
    if isinstance(process, Hashable):
        return _kept_law(space, process, level)
    return _corrupted_law(space, process, level)  # of a process of the caller's own, such as a plain dataclass


def _corrupted_law(space: Space, process: Process, level: float) -> Tensor:
    items = space.support()

    def f(codes: Tensor, rng: Rng) -> Tensor:
        x0 = space.decode(codes)
        t = space.free_of(x0) * torch.tensor(level, dtype=torch.float64)
        return space.code(process.corrupt(x0, t, process.noise(x0, t, rng=rng)))

    index, outcome, weight = enumerate_draws(f, items, space.length)
    law = torch.zeros(len(space.p0), len(space.p0), dtype=torch.float64)
    return law.index_put_((items[index], outcome), weight, accumulate=True)


# Every sampler starts from it, and bounds read it at the levels of the predictor.
_kept_law = functools.lru_cache(maxsize=256)(_corrupted_law)


@dataclass(eq=False)
class ExactPredictor:
    """The perfect factorised predictor: the marginals of p(x0 | x_t) at every level, by Bayes' rule."""

    space: Space
    process: Process
    tables: dict[int, Tensor] = field(default_factory=dict)

    def table(self, level: float) -> Tensor:
        """(codes, L, V + 1) marginals; the prior's where x_t is impossible."""
        key = round(level * 1e6)
        if key not in self.tables:
            space = self.space
            joint = space.p0[:, None] * corrupted_law(space, self.process, level)  # (x0, x_t)
            evidence = joint.sum(0)
            posterior = torch.where(evidence > 0, joint / evidence.clamp(min=1e-300), space.p0[:, None])
            tokens = torch.nn.functional.one_hot(space.decode(torch.arange(len(space.p0))), space.size + 1).double()
            self.tables[key] = torch.einsum("xy,xlv->ylv", posterior, tokens)
        return self.tables[key]

    def __call__(self, query: Query) -> Categorical:
        x_t, t, at = query.x_t, query.t, query.at
        rows, positions = at if at is not None else positions_of(torch.ones_like(x_t, dtype=torch.bool))
        codes, level = self.space.code(x_t)[rows], t.amax(-1)[rows]
        q = torch.zeros(len(rows), self.space.size + 1, dtype=torch.float64)
        for value in torch.unique(level).tolist():
            here = level == value
            q[here] = self.table(value)[codes[here], positions[here]]
        return Categorical.from_logits(q.log(), x_t, (rows, positions))


def ignorant(space: Space) -> Predictor:
    """A predictor to which all tokens are alike: a sampler that asks it about given text gets other text."""

    def predictor(query: Query) -> Categorical:
        x_t, at = query.x_t, query.at
        at = at if at is not None else positions_of(torch.ones_like(x_t, dtype=torch.bool))
        token = torch.arange(space.size + 1)
        return Categorical.from_logits(torch.where(token < space.size, 0.0, -torch.inf).expand(len(at[0]), -1), x_t, at)

    return predictor


def exact_bound(space: Space, process: Process, predictor: Predictor) -> float:
    """E over x0 and x_t of the bound of `likelihood` (1), every expectation summed, nats."""
    items = space.support()
    x = space.decode(items)
    steps = int(process.bound_steps(torch.tensor([space.n]))[0])
    total = float((space.p0[items] * process.prior_bound(x, space.free_of(x)).double()).sum())
    for j in range(1, steps + 1):
        joint = space.p0[:, None] * corrupted_law(space, process, j / steps)
        codes0, codes_t = (joint > 0).nonzero(as_tuple=True)
        x0, x_t = space.decode(codes0), space.decode(codes_t)
        t, s = (space.free_of(x0) * torch.tensor(k / steps, dtype=torch.float64) for k in (j, j - 1))
        bound = process.bound(predictor(Query(x_t, t)), x0, x_t, t, s)
        total += float((joint[codes0, codes_t] * bound.double()).sum())
    return total


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of |p − q| over outcomes."""
    return float(0.5 * (p - q).abs().sum())
