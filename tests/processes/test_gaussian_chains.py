"""Gaussian data through whole chains, and the bounds of their x0."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from normals import BRIDGES, SCHEDULE, close, every_schedule, f64
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.likelihood import nelbo
from textdiff.core.predictions import Bins, Normal
from textdiff.core.rng import Rng
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import ancestral
from textdiff.verify.normals import SIGNS, GaussianLaw, expected_bound, linear_predictor
from textdiff.verify.values import chain_law

MEAN = f64(0.5, -0.3, 1.0)
COVARIANCE = f64([1.0, 0.5, -0.2], [0.5, 0.7, 0.1], [-0.2, 0.1, 0.4])


def chain_distance(process: Gaussian, step: Any, steps: int, predictor: Any, mean: Tensor, covariance: Tensor) -> float:
    data = GaussianLaw(mean, covariance)
    return chain_law(process, step, steps, predictor, len(mean), data.draw)[0].wasserstein(data)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_chains_by_the_posterior_mean_come_to_the_mean_and_covariance_of_the_data(schedule, eta):
    process = Gaussian(SCHEDULE[schedule])
    predictor = linear_predictor(process.schedule, MEAN, COVARIANCE)
    few, more, many = (
        chain_distance(process, ancestral.ddpm(eta), steps, predictor, MEAN, COVARIANCE) for steps in (8, 16, 64)
    )
    assert more < 0.65 * few and many < 0.37 * more and many < 0.1


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
def test_without_the_noise_of_the_posterior_or_with_all_of_it_new_they_do_not(schedule):
    process = Gaussian(SCHEDULE[schedule])
    predictor = linear_predictor(process.schedule, MEAN, COVARIANCE)
    for step in (ancestral.ddpm(1.0, "none"), ancestral.baseline()):
        assert chain_distance(process, step, 40, predictor, MEAN, COVARIANCE) > 0.2


@every_schedule
@pytest.mark.parametrize("bridge", ["fresh", "reuse", "refresh", "ddpm", "half"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_drafts_drawn_from_the_whole_posterior_make_any_chain_exact(schedule, bridge, steps):
    process = Gaussian(SCHEDULE[schedule])
    for mean, covariance in ((f64(0.5), f64([0.3])), (MEAN, 0.4 * torch.eye(3).double())):
        predictor = linear_predictor(process.schedule, mean, covariance, drawn=True)
        step = ancestral.ancestral(BRIDGES[bridge])
        assert chain_distance(process, step, steps, predictor, mean, covariance) < 1e-6


def standard_predictor(schedule: Any, drawn: bool = True) -> Any:
    return linear_predictor(schedule, f64(0.0), f64([1.0]), drawn)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_the_bound_with_the_exact_posterior_is_the_density_at_every_x0(schedule, steps):
    """N(0, 1) under these schedules starts from its own prior, so nothing is lost, with any number of steps."""
    process = Gaussian(SCHEDULE[schedule], steps=steps)
    predictor = standard_predictor(process.schedule)
    for x in (-2.0, 0.0, 0.6):
        bound = expected_bound(
            process, predictor, lambda item, rng, x=x: torch.full((len(item), 1), x, dtype=torch.float64), torch.zeros(1),
            torch.ones(1).double(), SIGNS, 1,
        )  # fmt: skip
        assert abs(bound - (0.5 * x**2 + 0.5 * math.log(2 * math.pi))) < 1e-9


def gap_by_the_mean_alone(schedule: Any, steps: int) -> float:
    """Bound − entropy of N(0, 1), nats."""
    process = Gaussian(schedule, steps=steps)
    predictor = standard_predictor(schedule, drawn=False)
    bound = expected_bound(
        process, predictor, lambda item, rng: rng.normal(1), torch.zeros(1), torch.ones(1).double(), SIGNS, 1
    )
    return bound - 0.5 * (1 + math.log(2 * math.pi))


def even_ratio(t: Tensor) -> tuple[Tensor, Tensor]:
    """log SNR evenly from 8 to −8."""
    ratio = 8 - 16 * t.double()
    return torch.where(t > 0, ratio, torch.inf).sigmoid().sqrt(), torch.where(
        t > 0, -ratio, -torch.inf
    ).sigmoid().sqrt()


@pytest.mark.slow
def test_the_bound_by_the_mean_alone_closes_as_the_ratio_of_two_levels_comes_to_one():
    gaps = [gap_by_the_mean_alone(even_ratio, steps) for steps in (10, 40, 160)]
    assert 0 < gaps[1] < 0.3 * gaps[0] and 0 < gaps[2] < 0.3 * gaps[1]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
def test_on_levels_even_in_t_it_does_not_close_for_data_with_a_density(schedule):
    """The last levels 1/T, 2/T, … have ratios that no T brings to one: there a variance of the draft is needed."""
    assert all(gap_by_the_mean_alone(SCHEDULE[schedule], steps) > 0.25 for steps in (20, 80))


def test_nelbo_estimates_that_bound():
    process = Gaussian(SCHEDULE["cosine"], steps=12)
    x0 = Rng(range(1500)).normal(2)
    free = torch.ones(1500, 2).bool()
    free[::3, 0] = False
    exact = standard_predictor(process.schedule)

    def predictor(query: Query) -> Normal:
        """The two coordinates are independent; what is given says nothing of the other."""
        x_t, t = query.x_t, query.t
        each = [exact(Query(x_t[:, k, None], t[:, k, None])) for k in (0, 1)]
        return Normal(torch.cat([p.mean for p in each], 1), torch.cat([p.deviation for p in each], 1))

    truth = torch.where(free, 0.5 * x0**2 + 0.5 * math.log(2 * math.pi), 0.0).sum(-1)
    for levels in (None, 3):
        bound = nelbo(
            x0, free, predictor=predictor, process=process, seeds=torch.arange(1500), levels=levels, rows=10**5
        )
        gap = bound - truth
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(1500), levels


@pytest.mark.parametrize("deviation", [0.0, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("fallback", [1e-4, 0.02, 1.0])
def test_the_masses_of_all_bins_sum_to_one(deviation, fallback):
    bins = Bins(-1.0, 1.0, 2 / 16)
    values = torch.linspace(-1, 1, 17, dtype=torch.float64)[:, None]
    mean = f64(-4.0, -1.0, -0.21, 0.0, 0.0626, 0.99, 7.0).expand(17, 7)
    nll = Normal(mean, torch.full_like(mean, deviation)).last_nll(values, torch.full_like(mean, fallback), bins)
    assert close((-nll).exp().sum(0), torch.ones(7).double(), 1e-12) and (nll >= -1e-12).all()


def test_the_mass_of_a_narrow_bin_is_its_density():
    mean, x0 = f64(0.3, -0.4), f64(0.1, 0.5)
    prediction = Normal(mean, f64(0.2, 0.5))
    for width in (1e-3, 1e-5):
        mass = prediction.last_nll(x0, f64(1.0), Bins(-9, 9, width))
        assert close(mass + math.log(width), prediction.last_nll(x0, f64(1.0), None), 10 * width)


def test_a_value_far_from_its_prediction_has_a_finite_mass():
    far = Normal.point(f64(0.0)).last_nll(f64(1.0 - 1 / 16), f64(1e-3), Bins(-1, 1, 1 / 16))
    error = 1 - 1.5 / 16  # the edge of the bin
    assert abs(far.item() / (0.5 * (error / 1e-3) ** 2) - 1) < 1e-4
