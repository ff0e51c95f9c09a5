"""Normal draws that are followed exactly: `Units` and `Nodes` stand in for `Rng`.

With a predictor that is affine in x_t a whole chain is an affine function of all the normals that it draws,

    x = b + Σ_k a_k z_k,    z ~ N(0, 1)    so    x ~ N(b, Σ_k a_k a_kᵀ)                                               (1)

and unit vectors in the place of the draws read b and every a_k off the step functions that ship.  `Nodes` walks through a
quadrature rule for each normal, and through every outcome of each discrete draw: sums of equally spaced nodes under the
normal density converge geometrically where the predictor is analytic.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, Query
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Normal, ValuePredictor
from textdiff.core.rng import Rng
from textdiff.verify.enumeration import Enumerating, enumerate_draws


class Units(Rng):
    """Normals that are unit vectors: row 0 draws zeros, row k ≥ 1 a one as the k-th number of all that is drawn, else zeros."""

    def __init__(self, rows: int):
        self.keys = torch.zeros(rows, dtype=torch.long)
        self.used = 0

    def branch(self) -> Rng:
        """Itself: draws are told apart by their place."""
        return self

    def advance(self, rows: Tensor) -> None:
        """Nothing: draws are told apart by their place."""

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
    values = f(Units(1 + once.used))
    return values[0], values[1:] - values[0]


class GaussianLaw(NamedTuple):
    """N(mean (D,), covariance (D, D)), float64."""

    mean: Tensor
    covariance: Tensor

    @property
    def entropy(self) -> float:
        """Nats."""
        return float(0.5 * (len(self.mean) * (1 + math.log(2 * math.pi)) + torch.logdet(self.covariance)))

    def draw(self, rng: Rng) -> Tensor:
        """One draw for each row of rng, (B, D)."""
        root: Tensor = torch.linalg.cholesky(self.covariance) if self.covariance.any() else self.covariance
        return self.mean + rng.normal(len(self.mean)) @ root.T

    def first(self, width: float = 1.0) -> GaussianLaw:
        """The law of the first coordinate alone, its variance times `width`."""
        return GaussianLaw(self.mean[:1], self.covariance[:1, :1] * width)

    def wasserstein(self, other: GaussianLaw) -> float:
        """The 2-Wasserstein distance; 1e-8 and less is rounding."""

        def root(c: Tensor) -> Tensor:
            values, vectors = torch.linalg.eigh(c)
            result: Tensor = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
            return result

        half = root(self.covariance)
        gap = torch.trace(self.covariance + other.covariance - 2 * root(half @ other.covariance @ half))
        return float(((self.mean - other.mean).square().sum() + gap.clamp(min=0)).sqrt())

    def divergence(self, other: GaussianLaw) -> float:
        """KL(self ‖ other), nats."""
        gap = other.mean - self.mean
        spread = torch.trace(torch.linalg.solve(other.covariance, self.covariance))
        far = gap @ torch.linalg.solve(other.covariance, gap)
        logs = torch.logdet(other.covariance) - torch.logdet(self.covariance)
        return float(0.5 * (spread + far - len(gap) + logs))


def moments(f: Callable[[Rng], Tensor]) -> GaussianLaw:
    """The law of f(rng), an affine function of its normals, all axes but the rows' in one."""
    mean, columns = affine(f)
    return GaussianLaw(mean.flatten(), columns.flatten(1).T @ columns.flatten(1))


def corrupted(process: Process, x0: Tensor, level: float, rng: Rng) -> Tensor:
    """x_t from x0 (B, L), every place of it free and at `level`, by the process's own noise."""
    t = torch.full(x0.shape, level, dtype=torch.float64)
    x_t: Tensor = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    return x_t


def linear_predictor(
    rates: Callable[[Tensor], tuple[Tensor, Tensor]], mean: Tensor, covariance: Tensor, drawn: bool = False
) -> ValuePredictor:
    """p(x0 | x_t) of x0 ~ N(mean (D,), covariance (D, D)) under x_t = α x0 + β ε: its mean, or with `drawn` its deviations, too.

    `rates` gives (α, β) of a level; x_t (B, D), all of a row at one level.
    """

    def predict(query: Query) -> Normal:
        x_t, t = query.x_t, query.t
        alpha, beta = (rate[:, None, None] for rate in rates(t.amax(-1)))
        eye = torch.eye(len(mean), dtype=mean.dtype)
        gain = alpha * torch.linalg.solve(alpha.square() * covariance + beta.square() * eye, covariance)  # (B, D, D)
        centre = mean + ((x_t - alpha[:, :, 0] * mean)[:, None] @ gain)[:, 0]
        rest = covariance - alpha * gain @ covariance
        return Normal(centre, rest.diagonal(dim1=1, dim2=2).sqrt()) if drawn else Normal.point(centre)

    return predict


class Nodes(Enumerating):
    """An enumeration that takes each normal for one of `nodes`, with probability ∝ `weights`, both (K,)."""

    def __init__(self, prefixes: Tensor, length: int, *, nodes: Tensor, weights: Tensor):
        Enumerating.__init__(self, prefixes, length)
        self.nodes, self.weights = nodes, weights

    def normal(self, *shape: int) -> Tensor:
        table = self.weights.expand(len(self.keys), -1)
        drawn = [self.nodes[self.choose(table)] for _ in range(math.prod(shape))]
        return torch.stack(drawn, -1).view(-1, *shape)


POINTS = torch.linspace(-7.5, 7.5, 31, dtype=torch.float64)
FINE = functools.partial(Nodes, nodes=POINTS, weights=(-POINTS.square() / 2).exp())  # to about 1e-9
SIGNS = functools.partial(
    Nodes, nodes=torch.tensor([-1.0, 1.0]).double(), weights=torch.ones(2)
)  # exact for quadratics


def expected_bound(
    process: Process,
    predictor: Predictor,
    draw: Callable[[Tensor, Rng], Tensor],
    items: Tensor,
    p: Tensor,
    make: Callable[..., Enumerating],
    length: int,
) -> float:
    """E of the bound of `likelihood` (1), nats: x0 = draw(item, rng), items with probabilities p, normals as `make` says."""

    def mean(f: Callable[[Tensor, Rng], Tensor]) -> float:
        index, value, weight = enumerate_draws(f, items, length, make)
        return float((p[index] * weight * value).sum())

    def at_start(item: Tensor, rng: Rng) -> Tensor:
        x0 = draw(item, rng)
        return process.prior_bound(x0, torch.ones(x0.shape, dtype=torch.bool))

    steps = int(process.bound_steps(torch.tensor([length]))[0])

    def step_of(j: int, item: Tensor, rng: Rng) -> Tensor:
        x0 = draw(item, rng)
        t, s = (torch.full(x0.shape, k / steps, dtype=torch.float64) for k in (j, j - 1))
        x_t = corrupted(process, x0, j / steps, rng)
        return process.bound(predictor(Query(x_t, t)), x0, x_t, t, s).double()

    return mean(at_start) + sum(mean(functools.partial(step_of, j)) for j in range(1, steps + 1))
