"""Exact laws of the shipped samplers on spaces small enough to enumerate.

`Enumerating` stands in for `Rng`: it walks through every outcome of every discrete draw with its weight.  Run under it, the
very step functions that ship give their transition law, and the very `noise` and `corrupt` give p(x_t | x0), from which the
exact predictor follows.  Nothing here knows how any sampler works.

Beside its law on texts of several positions every sampler is run where nothing is approximate, on texts of one position,
and where it must leave something alone, on texts with a given token.

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

from textdiff.core import levels as level_sequences
from textdiff.core.contracts import Positions, Predictor, Process, State, Step
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.resolve import attribute, unknown
from textdiff.core.rng import Rng, unnormalised
from textdiff.processes import PROCESSES, TOKENS
from textdiff.samplers import SAMPLERS, Entry
from textdiff.samplers.corrector import sweep_levels
from textdiff.verse.constraints import E, P, W, Z, constrained, law

ROWS = 20_000  # paths walked at a time
_BASE = 64  # more than any number of forwards in one step


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

    def successive(self, log_weight: Callable[[Tensor], Tensor], among: Tensor, size: Tensor) -> Tensor:
        length, weight = among.shape[1], torch.where(among, log_weight(among), -torch.inf)
        chosen = torch.zeros(len(size), length + 1, dtype=torch.bool)  # the last column: no more
        for k in range(length):
            left = torch.where(chosen[:, :-1], -torch.inf, weight)
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


class _Part(Enumerating):
    """Some rows of an enumeration."""

    def __init__(self, whole: Enumerating, index: Tensor):
        self.whole, self.index, self.length = whole, index, whole.length
        self.keys = whole.keys[index]

    def _choose(self, weights: Tensor) -> Tensor:
        table = torch.zeros(len(self.whole.keys), weights.shape[1], dtype=torch.float64)
        table[:, 0] = 1.0
        table[self.index] = weights.double()
        return self.whole._choose(table)[self.index]


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
        return (x * (self.size + 1) ** torch.arange(self.length)).sum(-1)

    def decode(self, code: Tensor) -> Tensor:
        return code[:, None] // (self.size + 1) ** torch.arange(self.length) % (self.size + 1)

    @property
    def entropy(self) -> float:
        return torch.special.entr(self.p0).sum().item()

    def support(self) -> Tensor:
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
    items = space.support()

    def f(codes: Tensor, rng: Rng) -> Tensor:
        x0 = space.decode(codes)
        t = space.free_of(x0) * torch.tensor(level, dtype=torch.float64)
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
    one_position: float  # total variation on texts of one position, where every sampler is exact
    astray: float  # probability of a result with [MASK] or with other given text

    @property
    def ok(self) -> bool:
        """Whether all that is claimed holds."""
        claimed = self.total_variation if self.claim == "exact" else 0.0
        return max(claimed, self.one_position, self.astray) <= 1e-6


def chain_law(
    space: Space,
    process: Process,
    step: Step,
    levels: Iterable[Any],
    predictor: Predictor,
    start: Tensor,
    weighed: bool = False,
) -> tuple[Tensor, float]:
    """The law over codes after the last level, and the mean forwards, of the shipped step functions run from `start`.

    With `weighed` every path counts with its probability times exp(`State.log_weight`), and the sum need not be 1.
    """
    n = space.n
    counts = n + 1
    law = torch.zeros(len(start) * counts, dtype=torch.float64)  # code and whole count of the level
    law[torch.arange(len(start)) * counts + n] = start
    forwards, previous = 0.0, 1.0
    for level in levels:
        s_level = float(level)
        items = (law > 1e-15).nonzero()[:, 0]
        gains: list[Tensor] = []

        def f(
            codes: Tensor, rng: Rng, level: float = s_level, previous: float = previous, gains: list[Tensor] = gains
        ) -> Tensor:
            x = space.decode(codes // counts)
            free = space.free_of(x)
            whole = (codes % counts).double()[:, None] / n
            t = torch.where(free, torch.where(whole == round(previous * n) / n, previous, whole), 0.0)
            none = torch.zeros(len(x), dtype=torch.long)
            state = State(x=x, t=t, given=x, free=free, condition=None, x0=x, forwards=none, log_weight=none.double())
            s = torch.where(free, torch.tensor(level, dtype=torch.float64), 0.0)
            after = step(state, s, predictor=predictor, process=process, rng=rng)
            gains.append(after.log_weight.exp() if weighed else torch.ones(len(x), dtype=torch.float64))
            m = (after.t.amax(-1) * n).round().long()
            return (space.code(after.x) * counts + m) * _BASE + after.forwards

        index, outcome, weight = enumerate_draws(f, items, space.length)
        weight = weight * law[items[index]]
        forwards += (weight * (outcome % _BASE)).sum().item()
        weight = weight * torch.cat(gains)
        law = torch.zeros_like(law).index_add_(0, outcome // _BASE, weight)
        previous = s_level
    return law.view(-1, counts).sum(-1), forwards


def exact_bound(space: Space, process: Process, predictor: Predictor) -> float:
    """E over x0 and x_t of the bound of `likelihood` (1), every expectation summed, nats."""
    items = space.support()
    x = space.decode(items)
    steps = int(process.bound_steps(torch.tensor([space.n]))[0])
    total = (space.p0[items] * process.prior_bound(x, space.free_of(x)).double()).sum().item()
    for j in range(1, steps + 1):
        joint = space.p0[:, None] * corrupted_law(space, process, j / steps)
        codes0, codes_t = (joint > 0).nonzero(as_tuple=True)
        x0, x_t = space.decode(codes0), space.decode(codes_t)
        t, s = (space.free_of(x0) * torch.tensor(k / steps, dtype=torch.float64) for k in (j, j - 1))
        bound = process.bound(predictor(x_t, t), x0, x_t, t, s)
        total += (joint[codes0, codes_t] * bound.double()).sum().item()
    return total


def total_variation(p: Tensor, q: Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


def build(name: str, space: Space) -> Process:
    """A process of the table (or a user's, by "module:attribute") for the tokens of `space`."""
    make = attribute(PROCESSES[name].path if name in PROCESSES else name)
    return make(space.size) if name == "mask" else make(torch.arange(space.size))


def sequence(name: str, process: str, length: int, steps: int | None) -> list[float]:
    """The levels that the pipeline would walk for one row of `length` free positions."""
    n = torch.tensor([length])
    if process == "uniform":
        return list(level_sequences.even_levels(steps or max(length, 3)))  # one step would hide a wrong bridge
    walk = [v.item() for v in level_sequences.count_levels(n, None if name == "entropy-bounded" else steps)]
    return walk + ([v.item() for v in sweep_levels(n, length)] if name == "gibbs" else [])


@dataclass(frozen=True)
class Result:
    """What `run` finds."""

    distance: float
    from_prior: float
    astray: float
    forwards: float


OPTIONS = {"refresh": {"share": 0.7}}  # large enough to touch two of three positions


def ignorant(space: Space) -> Predictor:
    """A predictor that finds all tokens alike: whoever asks it about given text gets something else."""

    def predictor(x_t: Tensor, t: Tensor, *, at: Positions | None = None, **_: Any) -> Categorical:
        at = at if at is not None else positions_of(torch.ones_like(x_t, dtype=torch.bool))
        token = torch.arange(space.size + 1)
        return Categorical.from_logits(torch.where(token < space.size, 0.0, -torch.inf).expand(len(at[0]), -1), x_t, at)

    return predictor


def run(space: Space, process: Process, predictor: Predictor, step: Step, levels: list[float]) -> Result:
    """The law that a sampler ends with on a space, from the exact law at level 1 and from the shipped prior."""
    exact_start = space.p0 @ corrupted_law(space, process, 1.0)

    def prior(codes: Tensor, rng: Rng) -> Tensor:
        x = space.decode(codes)
        return space.code(process.prior(x, space.free_of(x), rng=rng))

    index, outcome, weight = enumerate_draws(prior, space.support(), space.length)
    shipped = torch.zeros_like(space.p0).index_add_(0, outcome, weight * space.p0[space.support()][index])
    law, forwards = chain_law(space, process, step, levels, predictor, exact_start)
    distance = total_variation(law, space.p0)
    if torch.allclose(shipped, exact_start):
        from_prior = distance
    else:
        from_prior = total_variation(chain_law(space, process, step, levels, predictor, shipped)[0], space.p0)
    x = space.decode(torch.arange(len(law)))
    astray = (x == space.size).any(-1) | ((x != space.decode(space.support()[:1])) & ~space.free_of(x)).any(-1)
    return Result(distance, from_prior, law[astray].sum().item(), forwards)


def check(
    space: Space,
    process_name: str,
    sampler_name: str,
    steps: int | None = None,
    *,
    step: Step | None = None,
    claim: str | None = None,
    bounds: dict[str, float | None] | None = None,
    made: dict[str, tuple[Process, ExactPredictor]] | None = None,
) -> Row:
    """One process × sampler on one space.  `bounds` and `made` keep what the next check on the same space needs again."""
    made = {} if made is None else made
    step = step or attribute(SAMPLERS[sampler_name].path)(**OPTIONS.get(sampler_name, {}))
    process, exact = _made(space, process_name, made)
    one, partly = Space.random(1, space.size, seed=space.length), space.given_first()
    levels, fewer, single = (sequence(sampler_name, process_name, w.n, steps) for w in (space, partly, one))
    whole = run(space, process, exact, step, levels)
    astray = max(whole.astray, run(partly, process, ignorant(partly), step, fewer).astray)
    alone = run(one, *_made(one, process_name, made), step, single)
    bounds = {} if bounds is None else bounds
    rule = "count" if sampler_name == "edit-count" else "marginal"
    name = f"{process_name} {rule}"
    if name not in bounds:
        bounded = replace(process, rule=rule) if process_name == "replacement" else process  # type: ignore[type-var]
        try:
            bounds[name] = exact_bound(space, bounded, exact) - space.entropy
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
        total_variation=whole.distance,
        shipped_prior=whole.from_prior,
        excess=bounds[name],
        forwards=whole.forwards,
        one_position=alone.distance,
        astray=astray,
    )


# Six tokens on two lines of two: level, level, either, oblique, one without a reading, which is never written, and either.
LETTERS, GROUPS = (P, P, E, Z, W, E), ("a", "ab", "b", "", "", "b")
SEQUENCES = ("p·z·", "z·p·")  # and the second of each line a rhyme word
USUAL = ("improved", "confidence")  # samplers whose chain under a law is checked by default, with its weights


def constrained_check(sampler_name: str) -> Row:
    """A sampler of the mask process under a law of tones and rhyme.

    `one_position` must be 0: it is the distance of one draw of everything from the product restricted to the law, or for
    the samplers of USUAL that of the weighed chain from p(x0 | law), whichever is larger.  `astray` is what falls out of the
    law; `total_variation` is the gap between the chain without weights and p(x0 | law), which is not claimed to be 0.
    """
    space = Space.random(4, len(LETTERS), seed=1)
    blank = torch.full((1, 4), space.size)
    set_ = law(
        2, 2, letters=(*LETTERS, W), unread=space.size, words=(1, 3),
        sequences=[[[marks[:2]], [marks[2:]]] for marks in SEQUENCES],
        groups=[*map(frozenset, GROUPS), frozenset()],
    )  # fmt: skip
    process, exact = _made(space, "mask", {})
    texts = space.decode(space.support())
    inside = torch.zeros_like(space.p0).index_put((space.support(),), _keeps(texts).double())
    aim = space.p0 * inside / (space.p0 * inside).sum()
    start = torch.zeros_like(space.p0).index_put((space.code(blank),), torch.tensor(1.0, dtype=torch.float64))
    step = attribute(SAMPLERS[sampler_name].path)(**OPTIONS.get(sampler_name, {}))
    levels = sequence(sampler_name, "mask", 4, None)
    found, forwards = chain_law(space, process, step, levels, constrained(exact, set_), start)
    gap = 0.0
    if sampler_name in USUAL:
        weighed, _ = chain_law(space, process, step, levels, constrained(exact, set_, weigh=True), start, weighed=True)
        gap = total_variation(weighed / weighed.sum(), aim)

    def once(codes: Tensor, rng: Rng) -> Tensor:
        x = space.decode(codes)
        return space.code(constrained(exact, set_)(x, torch.ones(x.shape, dtype=torch.float64)).draw(rng=rng))

    _, outcome, weight = enumerate_draws(once, space.code(blank), 4)
    drawn = torch.zeros_like(space.p0).index_add_(0, outcome, weight)
    marginal = exact.table(1.0)[space.code(blank)[0]]  # (L, V + 1)
    product = marginal[torch.arange(4), texts].prod(-1)
    restricted = torch.zeros_like(space.p0).index_put((space.support(),), product) * inside
    return Row(
        space=f"V={space.size} L=4",
        process="mask, in form",
        sampler=sampler_name,
        steps=len(levels),
        claim="approximate",
        total_variation=total_variation(found, aim),
        shipped_prior=total_variation(found, aim),
        excess=None,
        forwards=forwards,
        one_position=max(gap, total_variation(drawn, restricted / restricted.sum())),
        astray=(found * (1 - inside)).sum().item(),
    )


def _keeps(texts: Tensor) -> Tensor:
    """Which texts (n, 4) the law of `constrained_check` holds, from its definition, (n,) bool."""
    meets = {"·": (P, Z, E), "p": (P, E), "z": (Z, E)}
    return torch.tensor(
        [
            any(all(LETTERS[v] in meets[m] for v, m in zip(text, marks, strict=True)) for marks in SEQUENCES)
            and bool(set(GROUPS[text[1]]) & set(GROUPS[text[3]]))
            and text[1] != text[3]
            for text in texts.tolist()
        ]
    )


def _made(space: Space, name: str, made: dict[str, Any]) -> tuple[Process, ExactPredictor]:
    """The process and its exact predictor, made once."""
    key = f"{name} {space.length}"
    if key not in made:
        process = build(name, space)
        made[key] = process, ExactPredictor(space, process)
    return made[key]


def _kind(process: str) -> str:
    """The process of the table that is served like this one: a user's own counts as mask if it sketches, else as uniform."""
    if process in PROCESSES:
        return process
    return (
        "uniform" if build(process, Space.random(1, 2)).sketch(torch.zeros(1, 1, dtype=torch.long)) is None else "mask"
    )


FULL = [Space.random(3, 4, seed=1), Space.random(4, 2, seed=2), Space.random(2, 6, seed=3), Space.random(4, 3, seed=4)]


def verify(
    *,
    full: bool = False,
    process: str | None = None,
    sampler: str | None = None,
    claim: str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda work: work,
) -> Iterator[Row]:
    """Every process × sampler of the tables (or a user's own, by "module:attribute") against an exact predictor.

    A process of the user's is called with its vocabulary (V,), a sampler without arguments; `claim` "exact" holds them to
    the exact law, which is asked of the table's own samplers as the table says.
    """
    if claim not in (None, "exact", "approximate"):
        raise AskedError(f"claim is {claim!r}; pass 'exact' or 'approximate'")
    for kind, name, table in (("process", process, PROCESSES), ("sampler", sampler, SAMPLERS)):
        if name is not None and name not in table and ":" not in name:
            raise unknown(kind, name, [*table, "your own as module:attribute"])
    own = Entry(path=sampler or "", summary="given on the command line", cost="?")
    samplers = {sampler: SAMPLERS.get(sampler, own)} if sampler else SAMPLERS
    work = [
        (space, p, s, steps)
        for space in [Space.random(3, 3)] + (FULL if full else [])
        for p in ([process] if process else TOKENS)
        for s, entry in samplers.items()
        if _kind(p) in entry.processes or (sampler and p not in PROCESSES)
        for steps in (None, 2)
        if not (steps and s in ("entropy-bounded", "gibbs", "edit-count"))
        and (steps is None or (steps < space.length and (full or s == "improved")))
        and (space.size**space.length <= 64 or p == "mask" or s.startswith("edit"))
    ]
    bounds: dict[str, dict[str, float | None]] = {}
    made: dict[str, dict[str, Any]] = {}
    for space, p, s, steps in progress(work):
        key = f"{space.size},{space.length}"
        step = None if s in SAMPLERS else attribute(s)()
        kept = {"bounds": bounds.setdefault(key, {}), "made": made.setdefault(key, {})}
        yield check(space, p, s, steps, step=step, claim=claim, **kept)  # type: ignore[arg-type]
    if process in (None, "mask"):
        usual = samplers if full or sampler else USUAL
        for s in progress([s for s in usual if s in SAMPLERS and "mask" in SAMPLERS[s].processes]):
            yield constrained_check(s)
