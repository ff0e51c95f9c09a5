"""Exact laws of the samplers where x is values or vectors: what `verify` is for tokens.

`Units` and `Nodes` stand in for `Rng`.  With a predictor that is affine in x_t a whole chain is an affine function of all
the normals that it draws,

    x = b + Σ_k a_k z_k,    z ~ N(0, 1)    so    x ~ N(b, Σ_k a_k a_kᵀ)                                               (1)

and unit vectors in the place of the draws read b and every a_k off the step functions that ship.  `Nodes` walks through a
quadrature rule for each normal, and through every outcome of each discrete draw: sums of equally spaced nodes under the
normal density converge geometrically where the predictor is analytic.

Each space has a part where a sampler must be exact with any number of steps.  One that draws its drafts is where the
predictor gives the whole law p(x0 | x_t), and not its mean alone: on a Gaussian of one dimension, on a text of one position.
One that follows the mean is where x0 is known.  For a degradation x + t·e it is what no restorer can spoil.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Positions, Predictor, State, Step, spread
from textdiff.core.errors import AskedError
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, Normal, positions_of
from textdiff.core.resolve import attribute, unknown
from textdiff.core.rng import Rng
from textdiff.core.schedules import cosine, flow
from textdiff.processes import PROCESSES
from textdiff.processes.cold import Cold
from textdiff.processes.embedding import embedding
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import SAMPLERS
from textdiff.verify.tokens import Enumerating, Space, enumerate_draws, total_variation

VALUES = tuple(name for name, entry in PROCESSES.items() if entry.data != "tokens")


class Units(Rng):
    """Normals that are unit vectors: row 0 draws zeros, row k ≥ 1 a one as the k-th of all that is drawn, else zeros."""

    def __init__(self, rows: int):
        self.keys = torch.zeros(rows, dtype=torch.long)
        self.used = 0

    def branch(self) -> Rng:
        """Itself: a draw is told by its place."""
        return self

    def advance(self, rows: Tensor) -> None:
        """Nothing: a draw is told by its place."""

    def uniform(self, *shape: int) -> Tensor:
        raise AskedError("only normals make an affine function; draw with rng.normal")

    def normal(self, *shape: int) -> Tensor:
        size = math.prod(shape)
        place = torch.arange(1 + self.used, 1 + self.used + size)
        self.used += size
        return (torch.arange(len(self.keys))[:, None] == place).double().view(-1, *shape)


def affine(f: Callable[[Rng], Tensor]) -> tuple[Tensor, Tensor]:
    """b and a of (1) for f: rng of B rows -> (B, …) that draws the same normals in every row: (…), (draws, …)."""
    once = Units(1)
    f(once)
    found = f(Units(1 + once.used))
    return found[0], found[1:] - found[0]


def moments(f: Callable[[Rng], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the affine function f of its normals, (D,), (D, D)."""
    mean, columns = affine(f)
    return mean.flatten(), columns.flatten(1).T @ columns.flatten(1)


class Nodes(Enumerating):
    """An enumeration that takes each normal for one of `nodes`, with probability ∝ `weights`, both (K,)."""

    def __init__(self, prefixes: Tensor, length: int, *, nodes: Tensor, weights: Tensor):
        Enumerating.__init__(self, prefixes, length)
        self.nodes, self.weights = nodes, weights

    def normal(self, *shape: int) -> Tensor:
        table = self.weights.expand(len(self.keys), -1)
        drawn = [self.nodes[self._choose(table)] for _ in range(math.prod(shape))]
        return torch.stack(drawn, -1).view(-1, *shape)


_POINTS = torch.linspace(-7.5, 7.5, 31, dtype=torch.float64)
FINE = functools.partial(Nodes, nodes=_POINTS, weights=(-_POINTS.square() / 2).exp())  # to about 1e-9
SIGNS = functools.partial(
    Nodes, nodes=torch.tensor([-1.0, 1.0]).double(), weights=torch.ones(2)
)  # exact for quadratics


# -- exact predictors ----------------------------------------------------------------------------------------------------


def linear_predictor(
    rates: Callable[[Tensor], tuple[Tensor, Tensor]], mean: Tensor, covariance: Tensor, drawn: bool = False
) -> Predictor:
    """p(x0 | x_t) of x0 ~ N(mean (D,), covariance (D, D)) under x_t = α x0 + β ε: its mean, or with `drawn` its deviations, too.

    `rates` gives (α, β) of a level; x_t (B, D), all of a row at one level.
    """

    def predict(x_t: Tensor, t: Tensor, **_: Any) -> Normal:
        alpha, beta = (rate[:, None, None] for rate in rates(t.amax(-1)))
        eye = torch.eye(len(mean), dtype=mean.dtype)
        gain = alpha * torch.linalg.solve(alpha.square() * covariance + beta.square() * eye, covariance)  # (B, D, D)
        centre = mean + ((x_t - alpha[:, :, 0] * mean)[:, None] @ gain)[:, 0]
        rest = covariance - alpha * gain @ covariance
        return Normal(centre, rest.diagonal(dim1=1, dim2=2).sqrt()) if drawn else Normal.point(centre)

    return predict


def posterior_predictor(process: Gaussian, space: Space) -> Predictor:
    """The marginals of p(x0 | x_t) for embedded texts of `space`, by Bayes' rule over all of them."""
    items = space.support()
    texts = space.decode(items)  # (N, L)
    vectors, size = process.encode(texts), space.size
    token = torch.nn.functional.one_hot(texts, size).to(vectors.dtype)  # (N, L, V)

    def predict(x_t: Tensor, t: Tensor, *, at: Positions | None = None, **_: Any) -> Categorical:
        at = at if at is not None else positions_of(torch.ones(x_t.shape[:2], dtype=torch.bool))
        alpha, beta = (rate[:, None] for rate in process.schedule(t.amax(-1)))
        cross = x_t.flatten(1) @ vectors.flatten(1).T  # (B, N): all texts have one norm
        joint = space.p0[items].log() + cross * alpha / beta.square()
        q = torch.einsum("bn,nlv->blv", joint.softmax(-1), token)
        known = torch.zeros(x_t.shape[:2], dtype=torch.long)
        return Categorical.from_logits(q.log()[at], known, at)

    return predict


# -- laws ------------------------------------------------------------------------------------------------------------------


def last(states: Iterable[State]) -> State:
    """The end of a chain."""
    for state in states:
        found = state
    return found


def run(
    process: Any, step: Step, steps: int, predictor: Predictor, given: Tensor, rng: Rng, draw: Any = None
) -> tuple[Tensor, float]:
    """x0 (B, …) at the end of `steps` even levels, and the mean forwards; from x_1 of `draw(rng)` if told, else the prior."""
    free = torch.ones(given.shape[:2], dtype=torch.bool)
    level = free.double()
    start = None
    if draw is not None:
        x0 = draw(rng)
        start = process.corrupt(x0, level, process.noise(x0, level, rng=rng))
    chain = sample(given, free, even_levels(steps), step, predictor=predictor, process=process, rng=rng, start=start)
    state = last(chain)
    return process.decode(state.x), state.forwards.double().mean().item()


def gaussian_draw(mean: Tensor, covariance: Tensor) -> Callable[[Rng], Tensor]:
    """rng -> x0 ~ N(mean, covariance), (B, D)."""
    root = torch.linalg.cholesky(covariance) if covariance.any() else covariance
    return lambda rng: mean + rng.normal(len(mean)) @ root.T


def wasserstein(mean: Tensor, covariance: Tensor, mean_: Tensor, covariance_: Tensor) -> float:
    """The 2-Wasserstein distance of two Gaussians; 1e-8 and less is rounding."""

    def root(c: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(c)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T

    half = root(covariance)
    gap = torch.trace(covariance + covariance_ - 2 * root(half @ covariance_ @ half))
    return ((mean - mean_).square().sum() + gap.clamp(min=0)).sqrt().item()


def value_law(process: Any, step: Step, steps: int, predictor: Predictor, size: int, draw: Any = None) -> Any:
    """Mean and covariance of what the sampler ends with, and the forwards spent."""
    spent = []

    def f(rng: Rng) -> Tensor:
        given = torch.zeros(len(rng.keys), size, dtype=torch.float64)
        x, forwards = run(process, step, steps, predictor, given, rng, draw)
        spent.append(forwards)
        return x

    return *moments(f), spent[-1]


def expected_bound(process: Any, predictor: Predictor, draw: Callable[[Tensor, Rng], Tensor], items: Tensor, p: Tensor,
                   make: Any, length: int) -> float:  # fmt: skip
    """E of the bound of `likelihood` (1), nats: x0 = draw(item, rng), items with probabilities p, normals as `make` says."""

    def mean(f: Callable[[Tensor, Rng], Tensor]) -> float:
        index, value, weight = enumerate_draws(f, items, length, make)
        return (p[index] * weight * value).sum().item()

    def at_start(item: Tensor, rng: Rng) -> Tensor:
        x0 = draw(item, rng)
        return process.prior_bound(x0, torch.ones(x0.shape, dtype=torch.bool))

    def step_of(j: int, item: Tensor, rng: Rng) -> Tensor:
        x0 = draw(item, rng)
        t, s = (torch.full(x0.shape, k / process.steps, dtype=torch.float64) for k in (j, j - 1))
        x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
        return process.bound(predictor(x_t, t), x0, x_t, t, s).double()

    return mean(at_start) + sum(mean(functools.partial(step_of, j)) for j in range(1, process.steps + 1))


# -- the report ----------------------------------------------------------------------------------------------------------

EXACT = 1e-6  # what counts as 0
STEPS = 20
ROWS = 10_000  # Monte Carlo, where a law is not followed exactly
DRAFTS = ("baseline", "improved", "refresh", "ddpm")  # draw x̂0 and bridge: exact wherever the draft's law is
MEANS = ("heun", "interpolation")  # follow the mean of p(x0 | x_t): exact where x0 is known
LIMITS = ("improved", "ddpm", *MEANS)  # of the mean, or of the marginals, alone: come to p(x0) as the steps grow


@dataclass(frozen=True)
class Row:
    """One line of the report; the fields of `verify.Row`, of values."""

    space: str
    process: str
    sampler: str
    steps: int
    claim: str  # "exact", "in limit" (of many steps) or "approximate"
    total_variation: float  # from p(x0); of values the 2-Wasserstein distance
    shipped_prior: float  # the same from the prior that ships
    excess: float | None  # bound − entropy, nats
    forwards: float
    one_position: float  # the distance where every sampler is exact
    astray: float  # how far given values or tokens were moved
    finer: float | None  # `total_variation` with four times the steps, where a limit is claimed
    noise: float  # what these two would be by Monte Carlo alone

    @property
    def ok(self) -> bool:
        """Whether all that is claimed holds."""
        claimed = self.total_variation if self.claim == "exact" else 0.0
        nearer = self.finer is None or self.finer <= max(self.total_variation / 2, 2 * self.noise)
        return max(claimed, self.one_position, self.astray) <= EXACT and nearer


def _ignorant(x_t: Tensor, t: Tensor, **_: Any) -> Normal:
    """Finds 0 everywhere: whoever asks it about what is given gets something else."""
    return Normal.point(torch.zeros_like(x_t))


def _only_token_2(x_t: Tensor, t: Tensor, **_: Any) -> Categorical:
    """Sure of one token everywhere."""
    logits = torch.tensor([-torch.inf, -torch.inf, 0.0]).expand(*x_t.shape[:2], 3)
    return Categorical.from_logits(logits, torch.zeros(x_t.shape[:2], dtype=torch.long))


def _moved(process: Any, step: Step, given: Tensor, predictor: Predictor) -> float:
    """The largest change of what is given (B, L), the first half of each row."""
    free = torch.arange(given.shape[1]).expand(given.shape) >= given.shape[1] // 2
    rng = Rng(torch.arange(len(given)))
    state = last(sample(given, free, even_levels(3), step, predictor=predictor, process=process, rng=rng))
    return (process.decode(state.x) - given)[~free].abs().max().item()


MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.45], [0.45, 0.6]], dtype=torch.float64)


def check_gaussian(sampler: str, step: Step, claim: str) -> Row:
    """A correlated Gaussian of two dimensions by its posterior mean; exact: one dimension by the whole posterior."""
    process = Gaussian(cosine(), steps=STEPS)
    predictor = linear_predictor(process.schedule, MEAN, COVARIANCE)
    draw = gaussian_draw(MEAN, COVARIANCE)

    def distance(steps: int, start: Any = draw) -> tuple[float, float]:
        mean, covariance, forwards = value_law(process, step, steps, predictor, 2, start)
        return wasserstein(mean, covariance, MEAN, COVARIANCE), forwards

    centre, width = MEAN[:1], COVARIANCE[:1, :1] * float(sampler not in MEANS)
    whole = linear_predictor(process.schedule, centre, width, drawn=True)
    mean, covariance, _ = value_law(process, step, 3, whole, 1, gaussian_draw(centre, width))
    excess, none = _gaussian_excess(2, drawn=False), _gaussian_excess(1, drawn=True)
    far, forwards = distance(STEPS)
    return Row(
        space="D=2",
        process="gaussian",
        sampler=sampler,
        steps=STEPS,
        claim=claim,
        total_variation=far,
        shipped_prior=distance(STEPS, None)[0],
        excess=excess,
        forwards=forwards,
        one_position=max(wasserstein(mean, covariance, centre, width), abs(none)),
        astray=_moved(process, step, torch.linspace(-1, 1, 24).view(4, 6).double(), _ignorant),
        finer=distance(4 * STEPS)[0] if claim == "in limit" else None,
        noise=0.0,
    )


@functools.cache
def _gaussian_excess(size: int, drawn: bool) -> float:
    """The bound minus the entropy in `size` dimensions and what the shipped prior costs: it is not the law of x_1."""
    mean, covariance = MEAN[:size], COVARIANCE[:size, :size]
    process, draw = Gaussian(cosine(), steps=STEPS), gaussian_draw(mean, covariance)
    predictor = linear_predictor(process.schedule, mean, covariance, drawn)
    bound = expected_bound(
        process, predictor, lambda item, rng: draw(rng), torch.zeros(1), torch.ones(1).double(), SIGNS, size
    )
    entropy = 0.5 * (size * (1 + math.log(2 * math.pi)) + torch.logdet(covariance).item())
    alpha, beta = process.schedule(torch.ones(1, dtype=torch.float64))
    eye = torch.eye(size, dtype=torch.float64)
    law, whole = alpha.square() * covariance + beta.square() * eye, alpha.square() + beta.square()
    second = law.trace() + (alpha * mean).square().sum()
    prior = 0.5 * (second / whole - size + size * whole.log() - torch.logdet(law)).item()
    return bound - entropy - prior


ONE = Space.random(1, 2, seed=2)


def _two_tokens() -> Gaussian:
    """Embedded at 1 and −1; under `flow` the prior is the exact law at level 1."""
    return embedding(torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.arange(2), flow(), steps=STEPS)


@functools.cache
def _embedding_excess() -> float:
    """The bound of a text of one position minus its entropy."""
    process, items = _two_tokens(), ONE.support()
    predictor = posterior_predictor(process, ONE)
    bound = expected_bound(process, predictor, lambda item, rng: ONE.decode(item), items, ONE.p0[items], FINE, 1)
    return bound - ONE.entropy


def check_embedding(sampler: str, step: Step, claim: str) -> Row:
    """Embedded texts of two positions by their marginals (Monte Carlo); exact: one position of two tokens, by quadrature."""
    space, one = Space.random(2, 3, seed=1), ONE
    table = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.3, -0.9]], dtype=torch.float64)
    process = embedding(table, torch.arange(3), cosine())
    predictor = posterior_predictor(process, space)

    def distance(steps: int, exact: bool = True) -> tuple[float, float]:
        given = torch.zeros(ROWS, 2, dtype=torch.long)
        share = ((torch.arange(ROWS).double() + 0.5) / ROWS)[:, None]
        texts = space.decode((space.p0.cumsum(0) < share).sum(-1))
        x, forwards = run(
            process, step, steps, predictor, given, Rng(torch.arange(ROWS)), (lambda rng: texts) if exact else None
        )
        found = torch.bincount(space.code(x), minlength=len(space.p0)) / ROWS
        return total_variation(found, space.p0), forwards

    if sampler in MEANS:
        one = replace(one, p0=torch.zeros_like(one.p0).index_fill(0, torch.tensor([1]), 1.0))
    small = _two_tokens()

    def end(item: Tensor, rng: Rng) -> Tensor:
        return one.code(run(small, step, 2, posterior_predictor(small, one), one.decode(item), rng)[0])

    _, outcome, weight = enumerate_draws(end, one.support()[:1], 1, FINE)
    law = torch.zeros_like(one.p0).index_add_(0, outcome, weight)
    steps = STEPS // 2
    far, forwards = distance(steps)
    return Row(
        space="V=3 L=2",
        process="embedding",
        sampler=sampler,
        steps=steps,
        claim=claim,
        total_variation=far,
        shipped_prior=distance(steps, exact=False)[0],
        excess=_embedding_excess(),
        forwards=forwards,
        one_position=total_variation(law, one.p0),
        astray=_moved(process, step, torch.zeros(4, 6, dtype=torch.long), _only_token_2),
        finer=distance(4 * steps)[0] if claim == "in limit" else None,
        noise=(space.p0 * (1 - space.p0) / (2 * math.pi * ROWS)).sqrt().sum().item(),
    )


def check_cold(sampler: str, step: Step, claim: str) -> Row:
    """Fading x_t = (1 − t) x0 + σ ε by the posterior mean, to the law of x0 + σ ε; exact: the degradation x + t·e.

    There the improved sampler ends at the true x0 with any restorer, every other one with a perfect restorer.
    """
    sigma = 0.5

    def fade(x0: Tensor, t: Tensor) -> Tensor:
        return (1 - spread(t, x0)) * x0

    process = Cold(fade, sigma=sigma, terminal=lambda given, *, rng: torch.zeros_like(given))
    predictor = linear_predictor(lambda t: (1 - t, torch.full_like(t, sigma)), MEAN, COVARIANCE)
    draw, blurred = gaussian_draw(MEAN, COVARIANCE), COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64)

    def distance(steps: int, start: Any = draw) -> tuple[float, float]:
        mean, covariance, forwards = value_law(process, step, steps, predictor, 2, start)
        return wasserstein(mean, covariance, MEAN, blurred), forwards

    truth = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
    along = 1 + torch.arange(6, dtype=torch.float64)  # e
    path = Cold(lambda x0, t: x0 + t * along)

    def perfect(x_t: Tensor, t: Tensor, **_: Any) -> Normal:
        return Normal.point(x_t - t * along)

    restorer = _ignorant if sampler == "improved" else perfect
    found, _ = run(path, step, 3, restorer, truth, Rng(torch.arange(4)))
    far, forwards = distance(STEPS)
    return Row(
        space="D=2",
        process="cold",
        sampler=sampler,
        steps=STEPS,
        claim=claim,
        total_variation=far,
        shipped_prior=distance(STEPS, None)[0],
        excess=None,
        forwards=forwards,
        one_position=(found - truth).abs().max().item(),
        astray=_moved(process, step, truth, _ignorant),
        finer=distance(4 * STEPS)[0] if claim == "in limit" else None,
        noise=0.0,
    )


CHECKS = {"gaussian": check_gaussian, "cold": check_cold, "embedding": check_embedding}


def verify_values(
    *,
    process: str | None = None,
    sampler: str | None = None,
    claim: str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda work: work,
) -> Iterator[Row]:
    """Every process of values or vectors × sampler of the tables against an exact predictor.

    A sampler of the user's, by "module:attribute", is called without arguments, and checked where `process` names one of
    these processes.
    """
    if (
        (process in PROCESSES and process not in CHECKS)
        or (process and ":" in process)
        or (process is None and sampler and ":" in sampler)
    ):
        return
    if sampler is not None and sampler not in SAMPLERS and ":" not in sampler:
        raise unknown("sampler", sampler, [*SAMPLERS, "your own as module:attribute"])
    work = [
        (p, s)
        for p in CHECKS
        for s in ([sampler] if sampler else (*DRAFTS, *MEANS))
        if process in (None, p) and (s not in SAMPLERS or p in SAMPLERS[s].processes)
    ]
    for p, s in progress(work):
        step = attribute(SAMPLERS[s].path if s in SAMPLERS else s)()
        yield CHECKS[p](s, step, claim or ("in limit" if s in LIMITS else "approximate"))
