"""Cold diffusion: what the improved step owes to no restorer, what noise is for, and where a degraded copy stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.contracts import Query, spread
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Normal
from textdiff.core.rng import Rng
from textdiff.processes.cold import Cold
from textdiff.samplers import ancestral
from textdiff.training.loss import weighted_nll
from textdiff.verify.normals import GaussianLaw, linear_predictor, moments
from textdiff.verify.values import chain_law, last

SHAPES = {"values": ((5,), (5,)), "image": ((2, 3, 4), (1, 1, 1)), "pixels": ((2, 3, 4), (1, 3, 4))}
every_shape = pytest.mark.parametrize("shape", SHAPES)
quickly = settings(max_examples=15, deadline=None)


def fade(x0: Tensor, t: Tensor) -> Tensor:
    return (1 - spread(t, x0)) * x0


def blur(x0: Tensor, t: Tensor) -> Tensor:
    """A share t of every value goes to its neighbours; linear in x0."""
    return (1 - t) * x0 + t * (x0.roll(1, -1) + x0.roll(-1, -1)) / 2


def wrong(query: Query) -> Normal:
    """A restorer that is no good, and not linear."""
    x_t, t = query.x_t, query.t
    return Normal.point(x_t.cos() * 3 - t)


def restore(
    process: Cold, step: Any, x0: Tensor, free: Tensor, predictor: Any, steps: int = 5, **start: Any
) -> list[Tensor]:
    """x at every level, from the degraded x0."""
    rng = Rng(range(len(x0)))
    return [
        state.x
        for state in sample(x0, free, even_levels(steps), step, predictor=predictor, process=process, rng=rng, **start)
    ]


@every_shape
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 9))
@quickly
def test_the_improved_step_follows_the_true_path_of_x_plus_te_with_any_restorer_to_the_end(shape, seed, steps):
    inside, places = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    x0, along = (torch.randn(n, *inside, generator=generator, dtype=torch.float64) for n in (3, 1))
    free = torch.rand(3, *places, generator=generator) < 0.8
    process = Cold(lambda x, t: x + spread(t, x) * along)
    path = restore(process, ancestral.improved(), x0, free, wrong, steps)
    for level, x in zip([1.0, *even_levels(steps)], path, strict=True):
        true = torch.where(spread(free, x0), x0 + level * along, x0)
        assert torch.allclose(x, true, rtol=0, atol=1e-12)


def test_the_naive_step_does_not_but_with_a_perfect_restorer():
    x0, along = Rng([1, 2]).normal(4), 1 + Rng([3]).normal(4).abs()
    process, free = Cold(lambda x, t: x + t * along), torch.ones(2, 4).bool()
    assert (restore(process, ancestral.baseline(), x0, free, wrong)[-1] - x0).abs().max() > 1

    def perfect(query: Query) -> Normal:
        x_t, t = query.x_t, query.t
        return Normal.point(x_t - t * along)

    for step in (ancestral.baseline(), ancestral.improved()):
        assert torch.allclose(restore(process, step, x0, free, perfect)[-1], x0, rtol=0, atol=1e-12)


def test_the_improved_step_is_the_better_one_for_a_linear_degradation():
    """Error against the true x_s, with the true path's x_t and a restorer that is off by a little."""
    x0, off = Rng(range(20)).normal(12), 0.2 * Rng(range(20, 40)).normal(12)
    process = Cold(blur)
    t, s = torch.full((20, 12), 0.6).double(), torch.full((20, 12), 0.5).double()
    x_t, true = process.degrade(x0, t), process.degrade(x0, s)
    naive = bridges.fresh(process, x0 + off, x_t, t, s, rng=Rng(range(20)))
    improved = bridges.improved(process, x0 + off, x_t, t, s, rng=Rng(range(20)))
    assert (improved - true).norm() < 0.3 * (naive - true).norm()


@every_shape
@given(seed=st.integers(0, 2**31), level=st.floats(0.01, 1), lower=st.floats(0, 1))
@quickly
def test_its_own_bridge_re_uses_the_residual_above_level_0_and_keeps_it_at_level_0(shape, seed, level, lower):
    inside, places = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    x0, draft = (torch.randn(3, *inside, generator=generator, dtype=torch.float64) for _ in range(2))
    free = torch.rand(3, *places, generator=generator) < 0.8
    t = torch.where(free, level, 0.0).double()
    process, rng = Cold(fade, sigma=0.3), Rng([1, 2, 3])
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    draft = torch.where(spread(free, x0), draft, x0)
    residual = x_t - process.degrade(draft, t)
    for s in (t * lower, torch.zeros_like(t)):
        own = process.bridge(draft, x_t, t, s, rng=rng)
        assert torch.allclose(own, process.degrade(draft, s) + residual, rtol=0, atol=1e-12)
    re_used = bridges.reuse(process, draft, x_t, t, t * 0, rng=rng)
    assert torch.equal(re_used, draft)  # `reuse` ends at the draft itself


def test_noise_has_its_sigma_and_none_is_drawn_without():
    def f(rng: Rng) -> Tensor:
        x = torch.zeros(len(rng.keys), 3, dtype=torch.float64)
        return Cold(fade, sigma=0.3).corrupt(x, x + 1, Cold(fade, sigma=0.3).noise(x, x + 1, rng=rng))

    mean, covariance = moments(f)
    assert torch.allclose(mean, torch.zeros(3).double()) and torch.allclose(covariance, 0.09 * torch.eye(3).double())
    rng = Rng([0])
    assert not Cold(fade).noise(torch.ones(1, 3), torch.ones(1, 3), rng=rng).any() and rng.counter == 0


def test_renewed_noise_keeps_its_law():
    process = Cold(fade, sigma=0.3)

    def f(rng: Rng) -> Tensor:
        x = torch.zeros(len(rng.keys), 2, dtype=torch.float64)
        noise = process.noise(x, x + 1, rng=rng)
        return process.renew(noise, x, x + 1, 0.4, rng=rng)

    assert torch.allclose(moments(f)[1], 0.09 * torch.eye(2).double())


def test_without_a_terminal_law_a_degraded_copy_of_what_is_given_is_restored():
    x0, free = Rng([1, 2]).normal(1, 4, 4).float(), torch.ones(2, 1, 1, 1).bool()
    free[1] = False
    prior = Cold(lambda x, t: x.mean((-2, -1), keepdim=True).expand_as(x)).prior(x0, free, rng=Rng([0, 1]))
    assert torch.allclose(prior[0], x0[0].mean().expand(1, 4, 4)) and torch.equal(prior[1], x0[1])


def test_with_a_terminal_law_and_noise_it_generates_the_data():
    """Fading Gaussian data, by their posterior mean: to the law of x0 + σ ε as the steps grow, from σ ε alone."""
    sigma, mean = 0.4, torch.tensor([0.5, -0.3]).double()
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.5]]).double()
    process = Cold(fade, sigma=sigma, terminal=lambda given, *, rng: torch.zeros_like(given))
    predictor = linear_predictor(lambda t: (1 - t, torch.full_like(t, sigma)), mean, covariance)
    target = covariance + sigma**2 * torch.eye(2).double()

    def distance(step: Any, steps: int, draw: Any = None) -> float:
        return chain_law(process, step, steps, predictor, 2, draw)[0].wasserstein(GaussianLaw(mean, target))

    few, many = (distance(ancestral.improved(), steps) for steps in (25, 100))
    assert many < 0.35 * few and many < 0.03
    assert abs(distance(ancestral.improved(), 25, GaussianLaw(mean, covariance).draw) - few) < 1e-9
    assert distance(ancestral.baseline(), 100) > 0.2


def test_without_noise_one_end_state_has_one_restoration():
    x0 = torch.zeros(5, 4).double()
    process = Cold(fade, terminal=lambda given, *, rng: torch.zeros_like(given))
    ends = restore(process, ancestral.improved(), x0, x0 == 0, wrong)[-1]
    assert (ends == ends[0]).all()
    noisy = restore(
        Cold(fade, sigma=0.1, terminal=lambda given, *, rng: torch.zeros_like(given)),
        ancestral.improved(),
        x0,
        x0 == 0,
        wrong,
    )[-1]
    assert (noisy[1:] != noisy[0]).any(-1).all()


def test_its_loss_is_the_absolute_error_at_the_free_places():
    process, x0 = Cold(fade), Rng([1, 2]).normal(3)
    t = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 1.0]]).double()
    error = torch.tensor([[1.0, -2.0, 5.0], [0.5, 7.0, 0.25]]).double()

    def predictor(query: Query) -> Normal:
        return Normal.point(x0 + error, power=1)

    loss = weighted_nll(predictor, process, x0, process.corrupt(x0, t, torch.zeros(2, 3)), t)
    assert abs(loss - (1 + 2 + 0.5 + 0.25)) < 1e-12


def test_a_start_between_the_ends_goes_on_from_there():
    x0, along = Rng([1]).normal(4), torch.ones(4).double()
    process = Cold(lambda x, t: x + t * along)
    states = sample(
        x0, torch.ones(1, 4).bool(), [0.2, 0.0], ancestral.improved(), predictor=wrong, process=process, rng=Rng([0]),
        start=x0 + 0.5, level=0.5,
    )  # fmt: skip
    assert torch.allclose(last(states).x, x0)


def test_it_has_no_bound():
    x = torch.zeros(1, 2)
    for ask in (lambda: Cold(fade).bound(None, x, x, x, x), lambda: Cold(fade).prior_bound(x, x > 0)):
        with pytest.raises(NotImplementedError, match="no bound"):
            ask()
