"""Identities of the Gaussian process that are no law of a sampler: each a gap that must stay under its limit (method §4).

The data are N(m, C), for which the posterior of x0, the density and the path of the probability-flow ODE are known.  What needs
a package that is not installed is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import noise_of
from textdiff.core.rng import Rng
from textdiff.core.schedules import flow, linear
from textdiff.processes.cold import Cold
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers.ancestral import improved
from textdiff.samplers.ode import invert, log_likelihood
from textdiff.samplers.second_order import heun
from textdiff.shaping.analytic import noise_power, posterior_deviation
from textdiff.verify.normals import linear_predictor
from textdiff.verify.values import DATA, GIVEN, ignorant, last, run


@dataclass(frozen=True)
class Law:
    """A gap between two routes to one answer."""

    law: str
    gap: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.gap <= self.limit


MEAN, COVARIANCE = DATA


def examples(n: int) -> Tensor:
    """Draws of the data, (n, 2)."""
    return DATA.draw(Rng(range(n), stream=7))


def density() -> float:
    """The ODE's log-likelihood against the density, nats."""
    x, schedule = examples(6), flow()
    options: dict[str, Any] = {"seeds": torch.arange(6), "probes": None, "first": 1e-5, "rtol": 1e-6, "atol": 1e-6}
    value = log_likelihood(x, linear_predictor(schedule, *DATA), schedule, **options)
    centred = x - MEAN
    exact = -0.5 * (centred * torch.linalg.solve(COVARIANCE, centred.T).T).sum(-1)
    exact = exact - 0.5 * torch.logdet(2 * math.pi * COVARIANCE)
    return float((value - exact).abs().max())


def variance() -> float:
    """Analytic variance, estimated from 20,000 examples, against the posterior's own, as a share of it."""
    schedule, levels = linear(), (0.05, 0.2, 0.5, 0.8)
    x, seeds = examples(20_000), torch.arange(20_000)
    table = noise_power(linear_predictor(schedule, *DATA), schedule, x, levels, seeds=seeds, rows=20_000)
    t = torch.tensor(levels, dtype=torch.float64)
    alpha, beta = (rate[:, None, None] for rate in schedule(t))
    rest = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + (alpha / beta).square() * torch.eye(2).double())
    exact = rest.diagonal(dim1=1, dim2=2).mean(-1)
    return float((posterior_deviation(table, schedule)(t).square() / exact - 1).abs().max())


def inversion() -> float:
    """x0 inverted to level 1 and drawn back by Heun in 100 steps each; what is left is mostly level .001, where it begins."""
    schedule, x = flow(), examples(50)
    options: dict[str, Any] = {"predictor": linear_predictor(schedule, *DATA), "process": Gaussian(schedule)}
    noise = invert(x, [k / 100 for k in range(1, 101)], step=heun(), **options)
    free = torch.ones_like(x, dtype=torch.bool)
    back = last(sample(x, free, even_levels(100), heun(), start=noise, rng=Rng(range(50)), **options))
    return float((back.x - x).abs().max())


def diffusers() -> float:
    """Twenty steps of DDIM against diffusers' DDIMScheduler, which computes in float32."""
    schedule, predictor = linear(), linear_predictor(linear(), *DATA)
    kind: Any = importlib.import_module("diffusers").DDIMScheduler
    theirs = kind(beta_start=1e-4, beta_end=2e-2, clip_sample=False, timestep_spacing="trailing")
    theirs.set_timesteps(20)
    free = torch.ones(50, 2, dtype=torch.bool)
    options: dict[str, Any] = {"predictor": predictor, "process": Gaussian(schedule), "rng": Rng(range(50))}
    first, *_, end = sample(examples(50), free, even_levels(20), improved(), **options)
    x = first.x
    for k in theirs.timesteps:
        t = torch.full_like(x, (int(k) + 1) / 1000)
        x = theirs.step(noise_of(predictor(Query(x, t)), x, t, schedule), k, x).prev_sample
    return float((x - end.x).abs().max())


def path() -> float:
    """The end of cold diffusion by x + t·e, where the improved bridge goes back to x0 whatever the restorer says."""
    x, along = GIVEN, 1 + torch.arange(GIVEN.shape[1], dtype=torch.float64)
    process = Cold(lambda x0, t: x0 + t * along)
    end, _ = run(process, improved(), 3, ignorant, x, Rng(range(len(x))))
    return float((end - x).abs().max())


# What is compared -> (how, the greatest gap, the package it takes).
LAWS: dict[str, tuple[Callable[[], float], float, str]] = {
    "likelihood by the probability-flow ODE, density (nats)": (density, 1e-3, "scipy"),
    "analytic variance, posterior variance (share)": (variance, 0.03, "torch"),
    "inverted and drawn back, x0": (inversion, 5e-3, "torch"),
    "cold diffusion by x + t·e, x0": (path, 1e-9, "torch"),
    "DDIM, diffusers' DDIMScheduler in float32": (diffusers, 1e-4, "diffusers"),
}


def verify_laws(progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda work: work) -> Iterator[Law]:
    """Each identity whose package is here."""
    here = [name for name, (_, _, package) in LAWS.items() if importlib.util.find_spec(package)]
    for name in progress(here):
        gap, limit, _ = LAWS[name]
        yield Law(name, gap(), limit)
