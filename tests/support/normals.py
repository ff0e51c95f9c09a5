"""What the tests of Gaussian processes share: schedules, bridges, and normal data, for which everything is known.

Known are the posterior mean, the density, and where the ODE leads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.contracts import spread
from textdiff.core.predictions import Normal
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule

SCHEDULE = {name: get_schedule(name) for name in ("linear", "cosine", "flow")}
SCHEDULE["own"] = lambda t: (1 - t.double() ** 2 / 2, 2 * t.double())  # general α, β


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


BRIDGES = {
    "fresh": bridges.fresh,
    "reuse": bridges.reuse,
    "improved": bridges.improved,
    "refresh": bridges.refresh(0.3),
    "ddpm": bridges.markov(1.0),
    "half": bridges.markov(0.5),
    "simple": bridges.markov(1.0, "simple"),
    "none": bridges.markov(1.0, "none"),
}


quickly = settings(max_examples=12, deadline=None)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULE)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return torch.allclose(a, b.expand_as(a), rtol=0, atol=tolerance)


MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[1.2, 0.0, 0.0], [0.5, 0.6, 0.0], [-0.3, 0.2, 0.3]], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Data:
    """x0 ~ N(mean, root rootᵀ), (B, D)."""

    mean: Tensor = MEAN
    root: Tensor = ROOT

    @property
    def covariance(self) -> Tensor:
        return self.root @ self.root.T

    def draw(self, n: int, seed: int = 0) -> Tensor:
        return self.mean + Rng(range(seed, seed + n), stream=99).normal(len(self.mean)) @ self.root.T

    def log_density(self, x: Tensor) -> Tensor:
        return torch.distributions.MultivariateNormal(self.mean, self.covariance).log_prob(x)

    def predictor(self, schedule: Any) -> Any:
        """x̂0 = E[x0 | x_t]."""
        values, axes = torch.linalg.eigh(self.covariance)

        def predict(query):
            x_t, t = query.x_t, query.t
            alpha, beta = schedule(spread(t, x_t))
            gain = alpha * values / (alpha.square() * values + beta.square())
            return Normal.point(self.mean + (gain * ((x_t - alpha * self.mean) @ axes)) @ axes.T)

        return predict

    def left(self, schedule: Any, level: float) -> float:
        """The posterior variance of x0 given x_t, per coordinate, averaged."""
        alpha, beta = schedule(torch.tensor(level, dtype=torch.float64))
        precision = torch.linalg.inv(self.covariance) + (alpha / beta).square() * torch.eye(len(self.mean)).double()
        return (torch.linalg.inv(precision).trace() / len(self.mean)).item()

    def carried(self, x: Tensor, schedule: Any, t: float, s: float) -> Tensor:
        """x_s on the ODE's path through x_t: along each axis of the covariance its normalised place stays."""
        values, axes = torch.linalg.eigh(self.covariance)
        (a, b), (c, d) = (schedule(torch.tensor(u, dtype=torch.float64)) for u in (t, s))
        ratio = ((c**2 * values + d**2) / (a**2 * values + b**2)).sqrt()
        return c * self.mean + ((x - a * self.mean) @ axes * ratio) @ axes.T


def isotropic(size: int = 3, deviation: float = 1.0) -> Data:
    return Data(torch.zeros(size, dtype=torch.float64), deviation * torch.eye(size, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Normal blobs of equal deviation, (B, D)."""

    means: Tensor
    deviation: float = 0.2

    def weights_at(self, x: Tensor, alpha: Any, beta: Any) -> tuple[Tensor, Any]:
        """log of weight × density of each blob at x_t, (B, K), and a blob's variance then."""
        variance = alpha**2 * self.deviation**2 + beta**2
        square = (x[:, None] - alpha * self.means).square().sum(-1)
        constant = math.log(len(self.means)) + 0.5 * x.shape[1] * (2 * math.pi * variance).log()
        return -0.5 * square / variance - constant, variance

    def log_density(self, x: Tensor) -> Tensor:
        one = torch.tensor(1.0, dtype=torch.float64)
        return self.weights_at(x, one, 0 * one)[0].logsumexp(-1)

    def predictor(self, schedule: Any) -> Any:
        def predict(query):
            x_t, t = query.x_t, query.t
            a, b = (rate.flatten()[0] for rate in schedule(t))
            log, variance = self.weights_at(x_t, a, b)
            own = self.means + a * self.deviation**2 / variance * (x_t[:, None] - a * self.means)
            return Normal.point((log.softmax(-1)[..., None] * own).sum(1))

        return predict


BLOBS = Mixture(torch.tensor([[-1.0, 0.5], [1.0, 1.0], [0.2, -1.2]], dtype=torch.float64))


def everywhere(x: Tensor) -> Tensor:
    """Free places of values (B, …), (B, 1 …)."""
    return torch.ones((len(x),) + (1,) * (x.ndim - 1), dtype=torch.bool)
