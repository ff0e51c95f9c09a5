"""What networks say of x_t, how the loss weighs it, and score matching."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from normals import SCHEDULE, close, f64, quickly
from torch import Tensor

from textdiff.core.contracts import Query, spread
from textdiff.core.predictions import Normal, noise_of
from textdiff.core.rng import Rng
from textdiff.core.schedules import slopes
from textdiff.networks.denoiser import denoiser
from textdiff.processes.gaussian import Gaussian
from textdiff.training.loss import weighted_nll


def described(schedule: Any, x0: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
    """The four outputs that describe the same x0."""
    (a, b), (da, db) = ([spread(r, x_t) for r in f(t)] for f in (schedule, lambda t: slopes(schedule, t)))
    noise = (x_t - a * x0) / b
    return {"noise": noise, "data": x0, "v": a * noise - b * x0, "velocity": da * x0 + db * noise}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow", "own"])
@given(level=st.floats(0.01, 0.98), seed=st.integers(0, 2**31))
@quickly
def test_all_outputs_describe_one_x0(schedule, level, seed):
    generator = torch.Generator().manual_seed(seed)
    x0, x_t = (torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.full((3, 1, 1, 1), level, dtype=torch.float64)
    for output, value in described(SCHEDULE[schedule], x0, x_t, t).items():
        if output == "v" and schedule in ("flow", "own"):
            continue  # v is an output of variance-preserving schedules
        predictor = denoiser(lambda x, level, condition, value=value: value, SCHEDULE[schedule], output)
        prediction = predictor(Query(x_t, t))
        assert close(prediction.mean, x0, 1e-7), output
        noise = described(SCHEDULE[schedule], x0, x_t, t)["noise"]
        assert close(noise_of(prediction, x_t, t, SCHEDULE[schedule]), noise, 1e-7 + 1e-7 / level)


def test_a_network_is_told_the_level_and_the_condition_of_its_row():
    told = []

    def network(x: Tensor, level: Tensor, condition: Any) -> Tensor:
        told.append((level.tolist(), condition))
        return x

    t = f64([[0.0, 0.5]], [[0.25, 0.0]])
    denoiser(network, None, "data")(Query(torch.zeros(2, 1, 2), t, condition="c"))
    assert told == [([0.5, 0.25], "c")]


def test_an_output_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        denoiser(lambda *a: a[0], SCHEDULE["linear"], "nois")
    with pytest.raises(ValueError, match="pass one"):
        denoiser(lambda *a: a[0], None, "velocity")


@pytest.mark.parametrize(
    ("schedule", "weighting", "output"),
    [
        ("linear", "noise", "noise"),
        ("cosine", "noise", "noise"),
        ("own", "noise", "noise"),
        ("linear", "velocity", "v"),
        ("cosine", "velocity", "v"),
        ("flow", "velocity", "velocity"),
        ("linear", "data", "data"),
    ],
)
def test_weights_make_the_loss_the_square_of_what_is_predicted(schedule, weighting, output):
    process = Gaussian(SCHEDULE[schedule], weighting)
    x0, error = Rng([1, 2, 3]).normal(2, 2, 2), 0.1 * Rng([4, 5, 6]).normal(2, 2, 2)
    t = spread(f64(0.2, 0.5, 0.9), x0)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=Rng([7, 8, 9])))
    said = described(process.schedule, x0, x_t, t)[output] + error
    predictor = denoiser(lambda x, level, condition: said, process.schedule, output)
    loss = weighted_nll(predictor, process, x0, x_t, t)
    assert abs(loss / (0.5 * error.square().sum()) - 1) < 1e-6  # weights are float32


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("steps", [7, 1000])
def test_the_bounds_weights_are_its_steps(schedule, steps):
    """Each step costs (w/T) · ½‖x0 − x̂0‖² more than a perfect prediction, the last one too."""
    process = Gaussian(SCHEDULE[schedule], "bound", steps=steps)
    j = torch.tensor([1, 2, 3, steps // 2, steps - 1])
    t, s = (spread(k.double() / steps, torch.zeros(5, 4)) for k in (j, j - 1))
    x0, error = Rng(range(5)).normal(4), 0.1 * Rng(range(5, 10)).normal(4)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=Rng(range(5))))
    t, s = t.expand(5, 4), s.expand(5, 4)
    more = process.bound(Normal.point(x0 + error), x0, x_t, t, s) - process.bound(Normal.point(x0), x0, x_t, t, s)
    weighed = (process.weights(x_t, t) * 0.5 * error.square()).sum(-1) / steps
    assert torch.allclose(weighed, more, rtol=1e-5)


def test_min_snr_caps_the_weight_of_the_noise():
    t = f64([0.01, 0.3, 0.9, 0.0])
    simple, capped = (Gaussian(SCHEDULE["cosine"], w).weights(t, t) for w in ("noise", "min-snr"))
    assert torch.equal(capped, simple.clamp(max=5)) and capped[0, 0] == 5 and capped[0, 3] == 0


def test_score_matching_and_conditional_score_matching_have_one_gradient():
    """E‖s − ∇log p_t‖² and E‖s + ε/β‖² differ by what no model can change; the latter is the loss of the noise.

    Expectations over a mixture of three Gaussians, by quadrature.
    """
    process, level = Gaussian(SCHEDULE["cosine"]), 0.45
    centre, weight, deviation = f64(-2.0, 0.5, 1.8), f64(0.3, 0.5, 0.2), 0.3
    z = torch.linspace(-7, 7, 121, dtype=torch.float64)
    p = (-z.square() / 2).exp() / (-z.square() / 2).exp().sum()
    k, i, j = torch.meshgrid(torch.arange(3), torch.arange(121), torch.arange(121), indexing="ij")
    k, i, j = k.flatten(), i.flatten(), j.flatten()
    mass = (weight[k] * p[i] * p[j])[:, None]
    x0, noise = (centre[k] + deviation * z[i])[:, None], z[j][:, None]
    t = torch.full_like(x0, level)
    x_t = process.corrupt(x0, t, noise)
    alpha, beta = process.schedule(f64(level))
    variance = alpha**2 * deviation**2 + beta**2
    gap = alpha * centre - x_t  # (N, 3)
    posterior = (weight.log() - gap.square() / (2 * variance)).softmax(-1)
    score = (posterior * gap).sum(-1, keepdim=True) / variance

    torch.manual_seed(0)
    networks = [
        torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double() for _ in range(2)
    ]
    losses = []
    for network in networks:
        by_score = (mass * (network(x_t) - score).square()).sum()
        predictor = denoiser(lambda x, level, condition, network=network: -beta * network(x), process.schedule)
        by_noise = predictor(Query(x_t, t)).weighted_nll(x0, process.weights(x_t, t).double() * mass)  # ½‖ε − ε_θ‖²
        by_noise = by_noise * 2 / beta[0] ** 2
        first, second = (torch.autograd.grad(loss, list(network.parameters())) for loss in (by_score, by_noise))
        for a, b in zip(first, second, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)  # weights are float32
        losses.append((by_score.item(), by_noise.item()))
    (a, b), (a_, b_) = losses
    constant = (1 / beta**2 - (mass * score.square()).sum()).item()
    assert abs(b - a - constant) < 1e-6 and abs(b_ - a_ - constant) < 1e-6 and abs(a - a_) > 0.01
