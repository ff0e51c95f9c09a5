"""Exact laws of the shipped samplers on spaces small enough to enumerate.

`Enumerating` stands in for `Rng`: it walks through every outcome of every discrete draw with its weight.  Run under it, the
very step functions that ship give their transition law, and the very `noise` and `corrupt` give p(x_t | x0), from which the
exact predictor follows.  Nothing here knows how any sampler works.

A path is the list of outcomes a row has chosen.  A row beyond its prescribed prefix takes the first possible outcome and
leaves the others behind as new prefixes, so that every leaf of the tree is visited once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from textdiff import levels as level_sequences
from textdiff.contracts import Positions, Predictor, Process, State, Step
from textdiff.predictions import Categorical, positions_of
from textdiff.processes import PROCESSES
from textdiff.resolve import attribute
from textdiff.rng import Rng, unnormalised
from textdiff.samplers import SAMPLERS, Entry
from textdiff.samplers.corrector import sweep_levels

ROWS = 20_000  # paths walked at a time
_BASE = 64  # more than any number of forwards in one step


class Enumerating(Rng):
    """An `Rng` whose rows follow prescribed outcomes; prefixes (B, D) with −1 where nothing is prescribed.

    `length` is the number of positions of a text: every row makes that many draws in `categorical`, needed or not, so
    that the k-th draw of a path means the same whichever rows stand beside it.
    """

    def __init__(self, prefixes: Tensor, length: int):
        self.length = length
        self.keys = torch.zeros(len(prefixes), dtype=torch.long)
        self.prefixes = prefixes
        self.weight = torch.ones(len(prefixes), dtype=torch.float64)
        self.path: list[Tensor] = []
        self.open: list[tuple[int, Tensor, Tensor]] = []  # (depth, rows, other outcomes)

    def rows(self, index: Tensor) -> Rng:
        raise NotImplementedError("enumeration keeps all rows together")

    def advance(self, rows: Tensor) -> None:
        """Nothing: the path tells the draws apart."""

    def rewind(self) -> None:
        """Nothing."""

    def _choose(self, weights: Tensor) -> Tensor:
        """One outcome per row with probability ∝ weights (B, K)."""
        p = weights.double() / weights.double().sum(-1, keepdim=True)
        depth = len(self.path)
        told = self.prefixes[:, depth] if depth < self.prefixes.shape[1] else torch.full_like(self.keys, -1)
        chosen = torch.where(told >= 0, told, (p > 0).long().argmax(-1))
        other = (p > 0) & (told < 0)[:, None]
        other[torch.arange(len(p)), chosen] = False
        rows, outcomes = other.nonzero(as_tuple=True)
        if len(rows):
            self.open.append((depth, rows, outcomes))
        self.path.append(chosen)
        self.weight = self.weight * p.gather(1, chosen[:, None])[:, 0]
        return chosen

    def branches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(row, prefix) of everything left behind."""
        width = len(self.path)
        path = torch.stack(self.path, -1) if width else torch.zeros(len(self.keys), 0, dtype=torch.long)
        for depth, rows, outcomes in self.open:
            prefix = torch.full((len(rows), width), -1)
            prefix[:, :depth] = path[rows, :depth]
            prefix[:, depth] = outcomes
            yield rows, prefix

    def uniform(self, *shape: int) -> Tensor:
        raise NotImplementedError(
            "a continuous draw cannot be enumerated; draw with ranks, subset, bernoulli, integers or categorical"
        )

    def uniform_at(self, rows: Tensor, positions: Tensor) -> Tensor:
        return self.uniform()

    def normal(self, *shape: int) -> Tensor:
        return self.uniform()

    def bernoulli(self, p: Tensor) -> Tensor:
        if p.ndim == 1:
            return self._choose(torch.stack([1 - p, p], -1)) == 1
        return torch.stack([self.bernoulli(p[:, i]) for i in range(p.shape[1])], -1)

    def integers(self, high: Tensor) -> Tensor:
        span = torch.arange(int(high.max()))
        return torch.stack([self._choose((span < high[:, i, None]).double()) for i in range(high.shape[1])], -1)

    def ranks(self, free: Tensor, first: Tensor | None = None) -> Tensor:
        length = free.shape[1]
        orders = torch.tensor(list(itertools.permutations(range(length))))  # (L!, L)
        group = torch.where(free, 1, 2) if first is None else torch.where(free, torch.where(first, 0, 1), 2)
        inside = torch.where(free, 0, torch.arange(1, length + 1))  # the others keep their places
        key = (group * (length + 1) + inside)[:, orders]  # (B, L!, L)
        order = orders[self._choose((key.diff(dim=-1) >= 0).all(-1).double())]
        place = torch.empty_like(order).scatter(-1, order, torch.arange(length).expand_as(order))
        return torch.where(free, (place.double() + 0.5) / free.sum(-1, keepdim=True), torch.inf)

    def subset(self, among: Tensor, size: Tensor) -> Tensor:
        sets = torch.tensor(list(itertools.product([False, True], repeat=among.shape[1])))  # (2^L, L)
        fits = ~(sets & ~among[:, None]).any(-1) & (sets.sum(-1) == torch.minimum(size, among.sum(-1))[:, None])
        return sets[self._choose(fits.double())]

    def successive(self, log_weight: Tensor, size: Tensor) -> Tensor:
        length = log_weight.shape[1]
        chosen = torch.zeros(len(size), length + 1, dtype=torch.bool)  # the last column: no more
        for k in range(length):
            left = torch.where(chosen[:, :-1], -torch.inf, log_weight)
            idle = ((k >= size) | (left == -torch.inf).all(-1))[:, None]
            table = torch.cat([torch.where(idle, -torch.inf, left), torch.where(idle, 0.0, -torch.inf)], -1)
            chosen = chosen.scatter(-1, self._choose(unnormalised(table))[:, None], True)
        return chosen[:, :-1]

    def categorical(self, logits: Tensor | Callable[[Tensor], Tensor], at: Positions | None = None) -> Tensor:
        if at is None:
            return self._choose(unnormalised(logits))  # type: ignore[arg-type]
        rows = at[0]
        index = torch.arange(len(rows))
        table = unnormalised(logits(index) if callable(logits) else logits)
        slot = index - torch.searchsorted(rows, rows)  # the how-manieth of its row
        result = torch.zeros_like(rows)
        for k in range(self.length):
            here = slot == k
            weights = torch.zeros(len(self.keys), table.shape[1], dtype=table.dtype)
            weights[:, 0] = 1.0
            weights[rows[here]] = table[here]
            result[here] = self._choose(weights)[rows[here]]
        return result


def enumerate_draws(f: Callable[[Tensor, Rng], Tensor], items: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """All outcomes of the random function f(items (R,), rng) -> (R,) integers: (item index, outcome, probability)."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    waiting = [(torch.arange(len(items)), torch.zeros(len(items), 0, dtype=torch.long))]
    while waiting:
        index, prefixes = waiting.pop()
        if len(index) > ROWS:
            waiting.append((index[ROWS:], prefixes[ROWS:]))
            index, prefixes = index[:ROWS], prefixes[:ROWS]
        rng = Enumerating(prefixes, length)
        outcome = f(items[index], rng)
        found.append((index, outcome, rng.weight))
        branches = list(rng.branches())
        if branches:
            waiting.append((index[torch.cat([r for r, _ in branches])], torch.cat([p for _, p in branches])))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Space:
    """All texts of L positions over tokens 0 … V − 1, and [MASK] = V; a text is coded in base V + 1."""

    length: int
    size: int
    p0: Tensor  # (V + 1)^L probabilities over codes, 0 for codes with a mask
    given: Tensor | None = None  # (L,) tokens that stand, −1 where free

    @classmethod
    def random(cls, length: int, size: int, seed: int = 0, concentration: float = 0.5) -> Space:
        """A Dirichlet-like law: normalised powers of uniforms, every text possible."""
        texts = torch.tensor(list(itertools.product(range(size), repeat=length)))
        weight = Rng([seed]).uniform(len(texts))[0].pow(1 / concentration) + 1e-3
        space = cls(length, size, torch.zeros((size + 1) ** length, dtype=torch.float64))
        space.p0[space.code(texts)] = weight / weight.sum()
        return space

    def code(self, x: Tensor) -> Tensor:
        return (x * (self.size + 1) ** torch.arange(self.length)).sum(-1)

    def decode(self, code: Tensor) -> Tensor:
        return code[:, None] // (self.size + 1) ** torch.arange(self.length) % (self.size + 1)

    @property
    def entropy(self) -> float:
        return torch.special.entr(self.p0).sum().item()

    def support(self) -> Tensor:
        return self.p0.nonzero()[:, 0]


def corrupted_law(space: Space, process: Process, level: float) -> Tensor:
    """p(x_t | x0) by running the process's own noise and corrupt, (codes of x0, codes of x_t)."""
    items = space.support()

    def f(codes: Tensor, rng: Rng) -> Tensor:
        x0 = space.decode(codes)
        t = torch.full(x0.shape, level, dtype=torch.float64)
        return space.code(process.corrupt(x0, t, process.noise(x0, t, rng=rng)))

    index, outcome, weight = enumerate_draws(f, items, space.length)
    law = torch.zeros(len(space.p0), len(space.p0), dtype=torch.float64)
    return law.index_put_((items[index], outcome), weight, accumulate=True)


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

    def __call__(
        self, x_t: Tensor, t: Tensor, *, at: Positions | None = None, condition: Any = None, previous: Any = None
    ) -> Categorical:
        rows, positions = at if at is not None else positions_of(torch.ones_like(x_t, dtype=torch.bool))
        codes, level = self.space.code(x_t)[rows], t.amax(-1)[rows]
        q = torch.zeros(len(rows), self.space.size + 1, dtype=torch.float64)
        for value in level.unique().tolist():
            here = level == value
            q[here] = self.table(value)[codes[here], positions[here]]
        return Categorical.from_logits(q.log(), x_t, (rows, positions))


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    space: str
    process: str
    sampler: str
    steps: int
    claim: str  # "exact" or "approximate"
    total_variation: float  # from the exact law at level 1
    shipped_prior: float  # from the prior that ships
    excess: float | None  # bound − entropy, nats
    forwards: float

    @property
    def ok(self) -> bool:
        """Whether the claim holds."""
        return self.claim != "exact" or self.total_variation <= 1e-6


def chain_law(
    space: Space, process: Process, step: Step, levels: Iterable[Any], predictor: Predictor, start: Tensor
) -> tuple[Tensor, float]:
    """The law over codes after the last level, and the mean forwards, of the shipped step functions run from `start`."""
    n = space.length
    counts = n + 1
    law = torch.zeros(len(start) * counts, dtype=torch.float64)  # code and whole count of the level
    law[torch.arange(len(start)) * counts + n] = start
    forwards, previous = 0.0, 1.0
    for level in levels:
        s_level = float(level)
        items = (law > 1e-15).nonzero()[:, 0]

        def f(codes: Tensor, rng: Rng, level: float = s_level, previous: float = previous) -> Tensor:
            x = space.decode(codes // counts)
            whole = (codes % counts).double()[:, None].expand(-1, n) / n
            t = torch.where(whole == round(previous * n) / n, previous, whole)
            free = torch.ones_like(x, dtype=torch.bool)
            state = State(
                x=x, t=t, given=x, free=free, condition=None, x0=x, forwards=torch.zeros(len(x), dtype=torch.long)
            )
            s = torch.full_like(t, level)
            after = step(state, s, predictor=predictor, process=process, rng=rng)
            m = (after.t.amax(-1) * n).round().long()
            return (space.code(after.x) * counts + m) * _BASE + after.forwards

        index, outcome, weight = enumerate_draws(f, items, space.length)
        weight = weight * law[items[index]]
        forwards += (weight * (outcome % _BASE)).sum().item()
        law = torch.zeros_like(law).index_add_(0, outcome // _BASE, weight)
        previous = s_level
    return law.view(-1, counts).sum(-1), forwards


def exact_bound(space: Space, process: Process, predictor: Predictor) -> float:
    """E over x0 and x_t of the bound of `likelihood` (1), every expectation summed, nats."""
    items = space.support()
    x = space.decode(items)
    free = torch.ones_like(x, dtype=torch.bool)
    steps = int(process.bound_steps(torch.tensor([space.length]))[0])
    total = (space.p0[items] * process.prior_bound(x, free).double()).sum().item()
    for j in range(1, steps + 1):
        joint = space.p0[:, None] * corrupted_law(space, process, j / steps)
        codes0, codes_t = (joint > 0).nonzero(as_tuple=True)
        x0, x_t = space.decode(codes0), space.decode(codes_t)
        t = torch.full(x0.shape, j / steps, dtype=torch.float64)
        prediction = predictor(x_t, t)
        bound = process.bound(prediction, x0, x_t, t, torch.full_like(t, (j - 1) / steps))
        total += (joint[codes0, codes_t] * bound.double()).sum().item()
    return total


def total_variation(p: Tensor, q: Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


def build(name: str, space: Space) -> Process:
    """A process of the table (or a user's, by "module:attribute") for the tokens of `space`."""
    make = attribute(PROCESSES[name][0] if name in PROCESSES else name)
    return make(space.size) if name == "mask" else make(torch.arange(space.size))


def sequence(name: str, process: str, length: int, steps: int | None) -> list[float]:
    """The levels that the pipeline would walk for one row of `length` free positions."""
    n = torch.tensor([length])
    if process == "uniform":
        return list(level_sequences.even_levels(steps or length))
    walk = [v.item() for v in level_sequences.count_levels(n, None if name == "entropy-bounded" else steps)]
    return walk + ([v.item() for v in sweep_levels(n, length)] if name == "gibbs" else [])


OPTIONS = {"refresh": {"share": 0.7}}  # large enough to touch two of three positions


def check(
    space: Space,
    process_name: str,
    sampler_name: str,
    steps: int | None = None,
    *,
    step: Step | None = None,
    claim: str | None = None,
    bounds: dict[str, float | None] | None = None,
    predictors: dict[str, ExactPredictor] | None = None,
) -> Row:
    """One process × sampler on one space."""
    process = build(process_name, space)
    predictors = {} if predictors is None else predictors
    predictor = predictors.setdefault(process_name, ExactPredictor(space, process))
    step = step or attribute(SAMPLERS[sampler_name].path)(**OPTIONS.get(sampler_name, {}))
    levels = sequence(sampler_name, process_name, space.length, steps)
    exact_start = space.p0 @ corrupted_law(space, process, 1.0)
    blank = torch.zeros(1, dtype=torch.long)

    def prior(codes: Tensor, rng: Rng) -> Tensor:
        x = torch.zeros(len(codes), space.length, dtype=torch.long)
        return space.code(process.prior(x, torch.ones_like(x, dtype=torch.bool), rng=rng))

    _, outcome, weight = enumerate_draws(prior, blank, space.length)
    shipped = torch.zeros_like(space.p0).index_add_(0, outcome, weight)
    law, forwards = chain_law(space, process, step, levels, predictor, exact_start)
    distance = total_variation(law, space.p0)
    if torch.allclose(shipped, exact_start):
        from_prior = distance
    else:
        from_prior = total_variation(chain_law(space, process, step, levels, predictor, shipped)[0], space.p0)
    bounds = {} if bounds is None else bounds
    rule = "count" if sampler_name == "edit-count" else "marginal"
    name = f"{process_name} {rule}"
    if name not in bounds:
        bounded = replace(process, rule=rule) if process_name == "replacement" else process  # type: ignore[type-var]
        try:
            bounds[name] = exact_bound(space, bounded, predictor) - space.entropy
        except NotImplementedError:
            bounds[name] = None
    one_each = steps is None or steps >= space.length
    entry = SAMPLERS.get(sampler_name)
    default = "exact" if entry and process_name in entry.exact and one_each else "approximate"
    return Row(
        space=f"V={space.size} L={space.length}",
        process=process_name,
        sampler=sampler_name,
        steps=len(levels),
        claim=claim or default,
        total_variation=distance,
        shipped_prior=from_prior,
        excess=bounds[name],
        forwards=forwards,
    )


def verify(
    *,
    full: bool = False,
    process: str | None = None,
    sampler: str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda work: work,
) -> Iterator[Row]:
    """Every process × sampler of the tables (or a user's own, by "module:attribute") against an exact predictor."""
    spaces = [Space.random(3, 3)] + ([Space.random(3, 4, seed=1), Space.random(4, 3, seed=2)] if full else [])
    own = Entry(sampler or "", tuple(PROCESSES), (), "?", "given on the command line")
    samplers = {sampler: SAMPLERS.get(sampler, own)} if sampler else SAMPLERS
    work = [
        (space, p, s, steps)
        for space in spaces
        for p in ([process] if process else PROCESSES)
        for s, entry in samplers.items()
        if p in entry.processes or p not in PROCESSES
        for steps in (None, 2)
        if not (steps and s in ("entropy-bounded", "gibbs", "edit-count"))
        and (full or steps is None or s == "improved")
    ]
    bounds: dict[str, dict[str, float | None]] = {}
    predictors: dict[str, dict[str, ExactPredictor]] = {}
    for space, p, s, steps in progress(work):
        key = f"{space.size},{space.length}"
        step = None if s in SAMPLERS else attribute(s)()
        yield check(
            space, p, s, steps, step=step, bounds=bounds.setdefault(key, {}), predictors=predictors.setdefault(key, {})
        )
