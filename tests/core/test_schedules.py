"""Schedules of the Gaussian process: where they start, how they run, and whose tables they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textdiff.core.rng import Rng
from textdiff.core.schedules import SCHEDULES, STEPS, from_betas, get_schedule, log_snr, shifted, slopes
from textdiff.processes.gaussian import Gaussian

TABLES = ("linear", "cosine", "sqrt")  # variance preserving
K = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
quickly = settings(max_examples=40, deadline=None)


@every_schedule
def test_level_0_is_the_data_and_signal_falls_while_noise_rises(name):
    alpha, beta = get_schedule(name)(K)
    assert (alpha[0], beta[0]) == (1, 0)
    assert (alpha.diff() < 0).all() and (beta.diff() > 0).all()
    assert (alpha >= 0).all() and (beta <= 1).all()
    assert (log_snr(get_schedule(name), K).diff() < 0).all()


@pytest.mark.parametrize("name", TABLES)
@given(t=st.floats(0, 1))
@quickly
def test_tables_preserve_variance_between_their_knots_too(name, t):
    alpha, beta = get_schedule(name)(torch.tensor(t, dtype=torch.float64))
    assert abs(alpha**2 + beta**2 - 1) < 1e-12


@pytest.mark.parametrize(("name", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_linear_and_cosine_are_the_tables_of_diffusers(name, theirs):
    diffusers = pytest.importorskip("diffusers")
    table = diffusers.DDPMScheduler(beta_schedule=theirs).alphas_cumprod  # float32, a running product of 1000 factors
    alpha, _ = get_schedule(name)(K[1:])
    relative = (alpha.square() / table.double() - 1).abs()
    assert relative.max() < 1000 * torch.finfo(torch.float32).eps
    assert relative.median() < 10 * torch.finfo(torch.float32).eps


def test_linear_and_cosine_are_their_formulas():
    linear = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, STEPS, dtype=torch.float64), 0)
    assert torch.allclose(get_schedule("linear")(K[1:])[0].square(), linear, rtol=1e-12)
    cosine = ((K + 0.008) / 1.008 * math.pi / 2).cos().square() / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert torch.allclose(get_schedule("cosine")(K[:-1])[0].square(), cosine[:-1], rtol=1e-9)
    clipped = cosine[-2] * (1 - 0.999)
    assert torch.allclose(get_schedule("cosine")(K[-1:])[0].square(), clipped, rtol=1e-9)


def test_sqrt_is_its_formula_normalised():
    alpha, _ = get_schedule("sqrt")(K[:-1])
    assert torch.allclose(alpha.square(), (1 - (K[:-1] + 1e-4).sqrt()) / (1 - 0.01), rtol=1e-9)


@given(t=st.floats(0, 1))
@quickly
def test_flow_is_a_straight_line(t):
    alpha, beta = get_schedule("flow")(torch.tensor(t, dtype=torch.float64))
    assert (alpha.item(), beta.item()) == (1 - t, t)


@every_schedule
@given(factor=st.floats(0.05, 20), t=st.floats(1e-4, 0.999))
@quickly
def test_a_shift_moves_the_log_ratio_by_twice_the_log_of_its_factor(name, factor, t):
    level = torch.tensor(t, dtype=torch.float64)
    before, after = get_schedule(name), get_schedule(name, factor)
    assert abs(log_snr(after, level) - log_snr(before, level) - 2 * math.log(factor)) < 1e-9
    alpha, beta = after(level)
    assert abs(alpha**2 + beta**2 - 1) < 1e-12
    start = after(torch.zeros(1, dtype=torch.float64))
    assert (start[0].item(), start[1].item()) == (1.0, 0.0)


def test_a_shift_makes_an_image_averaged_down_as_noisy_as_the_schedule_says():
    """Averaging 2 × 2 halves the noise and keeps the signal of a flat image: the factor is d₀/d."""
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    small, large = get_schedule("cosine"), shifted(get_schedule("cosine"), 8 / 16)
    (a, b), (a0, b0) = large(t), small(t)
    noise = Rng(range(500)).normal(2, 16, 16)
    pooled = (a[:, None, None] + b[:, None, None] * noise).unflatten(2, (8, 2)).unflatten(-1, (8, 2)).mean((-3, -1))
    for k in range(2):
        ratio = pooled[:, k].mean() / pooled[:, k].std()
        assert abs(ratio / (a0[k] / b0[k]) - 1) < 0.02


def test_tables_are_exact_at_their_knots_and_linear_in_the_log_between():
    betas = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    schedule = from_betas(betas)
    alpha, _ = schedule(torch.arange(4, dtype=torch.float64) / 3)
    assert torch.allclose(alpha.square(), torch.tensor([1, 0.9, 0.45, 0.045], dtype=torch.float64), rtol=1e-12)
    between, _ = schedule(torch.tensor([1.5 / 3], dtype=torch.float64))
    assert torch.allclose(between.square(), torch.tensor([math.sqrt(0.9 * 0.45)], dtype=torch.float64), rtol=1e-12)


def test_slopes_are_the_derivatives():
    t = torch.tensor([0.0, 0.2, 0.71234, 1.0], dtype=torch.float64)
    da, db = slopes(get_schedule("flow"), t)
    assert torch.allclose(da, -torch.ones(4).double(), atol=1e-8) and torch.allclose(
        db, torch.ones(4).double(), atol=1e-8
    )

    def smooth(t):
        return (t * math.pi / 2).cos(), (t * math.pi / 2).sin()

    da, db = slopes(smooth, t[1:3])
    assert torch.allclose(da, -math.pi / 2 * (t[1:3] * math.pi / 2).sin(), atol=1e-8)
    assert torch.allclose(db, math.pi / 2 * (t[1:3] * math.pi / 2).cos(), atol=1e-8)
    between = torch.tensor([0.30005, 0.70005], dtype=torch.float64)  # a table is smooth there
    for name in TABLES:
        schedule = get_schedule(name)
        (a, b), (da, db) = schedule(between), slopes(schedule, between)
        assert torch.allclose(a * da + b * db, torch.zeros(2).double(), atol=1e-8)  # α² + β² = 1
        step = (schedule(between + 4e-5)[0] - schedule(between - 4e-5)[0]) / 8e-5
        assert torch.allclose(da, step, rtol=1e-6)


def test_any_callable_is_a_schedule():
    def mine(t):
        return 1 - t**2, 3 * t

    process = Gaussian(mine)
    x0, noise = torch.tensor([[0.4, -2.0]]).double(), torch.tensor([[1.0, 0.5]]).double()
    t = torch.tensor([[0.5, 0.5]]).double()
    x_t = process.corrupt(x0, t, noise)
    assert torch.allclose(x_t, 0.75 * x0 + 1.5 * noise)
    assert torch.allclose(process.recover(x0, x_t, t, rng=Rng([0])), noise)
    prior = process.prior(torch.zeros(4000, 2).double(), torch.ones(4000, 2).bool(), rng=Rng(range(4000)))
    assert abs(prior.std() / 3 - 1) < 5 / math.sqrt(2 * 8000)


def test_a_row_of_levels_or_a_table_of_them():
    for shape in ((3,), (2, 3), (2, 1, 4)):
        t = torch.linspace(0, 1, math.prod(shape), dtype=torch.float64).view(shape)
        for name in SCHEDULES:
            alpha, beta = get_schedule(name)(t)
            assert alpha.shape == beta.shape == shape and alpha.dtype == torch.float64


@pytest.mark.parametrize("betas", [[0.1, 1.0], [0.0, 0.5], [[0.1]]])
def test_betas_that_make_no_schedule_are_refused(betas):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        from_betas(torch.tensor(betas))


def test_a_wrong_name_or_factor_is_refused():
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        get_schedule("cosin")
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive"):
            get_schedule("linear", factor)
