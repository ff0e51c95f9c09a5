"""DDIM and DDPM step by step beside the schedulers of diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from normals import SCHEDULE
from torch import Tensor

from textdiff.core.contracts import spread
from textdiff.core.loop import sample
from textdiff.core.rng import Rng
from textdiff.core.schedules import STEPS
from textdiff.networks.denoiser import denoiser
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import ancestral


class Recording(Rng):
    """Keeps every normal that it draws; a draw of all rows from one key."""

    def __init__(self, rows: int):
        Rng.__init__(self, range(rows))
        self.drawn: list[Tensor] = []

    def normal(self, *shape: int) -> Tensor:
        self.drawn.append(Rng.normal(self, *shape))
        return self.drawn[-1]


OUTPUT = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
FIRST = Rng([77, 78]).normal(1, 2, 3)


def answer(kind: str, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """A fixed function, not linear, told as each kind: x̂0 = α x − 0.3 β g(x)."""
    g = 0.3 * x.roll(1, -1).tanh()
    return {"epsilon": beta * x + alpha * g, "sample": alpha * x - beta * g, "v_prediction": g}[kind]


def parity(scheduler: Any, step: Any, dtype: torch.dtype, monkeypatch: Any, **told: Any) -> float:
    """The largest relative difference from diffusers over a whole trajectory, and in its end."""
    from diffusers.schedulers import scheduling_ddpm

    name = {"linear": "linear", "squaredcos_cap_v2": "cosine"}[scheduler.config.beta_schedule]
    kind, schedule = scheduler.config.prediction_type, SCHEDULE[name]
    places = [int(k) for k in scheduler.timesteps]
    levels = [(k + 1) / STEPS for k in places] + [0.0]

    def network(x: Tensor, level: Tensor, condition: Any) -> Tensor:
        return answer(kind, x, *(spread(rate, x).to(x.dtype) for rate in schedule(level)))

    rng = Recording(2)
    first = FIRST.to(dtype)
    free = torch.ones(2, 1, 1, 1, dtype=torch.bool)
    states = sample(
        torch.zeros_like(first), free, levels[1:], step, predictor=denoiser(network, schedule, OUTPUT[kind]),
        process=Gaussian(schedule), rng=rng, start=first, level=levels[0],
    )  # fmt: skip
    ours = [state.x for state in states]
    replayed = [z.to(dtype) for z in rng.drawn[1:]]  # the first is that of the prior
    x, largest = first, 0.0
    for index, k in enumerate(places):
        noise = replayed[index]
        if scheduler.config.get("variance_type") == "fixed_large" and index == len(places) - 1:
            noise = torch.zeros_like(noise)  # they add noise to the last step unless it starts at timestep 0
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, noise=noise, **b: noise)
        extra = {"eta": told["eta"], "variance_noise": noise} if told else {}
        out = network(x, torch.full((2,), (k + 1) / STEPS, dtype=torch.float64), None)
        x = scheduler.step(out, k, x, **extra).prev_sample
        largest = max(largest, ((x - ours[index + 1]).abs().max() / x.abs().max()).item())
    assert torch.isfinite(x).all() and x.dtype == dtype
    return largest


def in_float64(scheduler: Any) -> Any:
    """With our table in the place of its float32 product."""
    name = {"linear": "linear", "squaredcos_cap_v2": "cosine"}[scheduler.config.beta_schedule]
    levels = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS
    scheduler.alphas_cumprod = SCHEDULE[name](levels)[0].square()
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


KINDS = tuple(OUTPUT)
ETAS = (0.0, 0.5, 1.0)
VARIANCES = {"fixed_small": "posterior", "fixed_small_log": "posterior", "fixed_large": "simple"}
# Four steps for all, twenty for one kind of output.
FEW = [
    pytest.param(kind, spacing, steps, marks=[pytest.mark.slow] * (steps > 4 and kind != "epsilon"))
    for kind in KINDS
    for spacing in ("trailing", "leading")
    for steps in (4, 20)
]


def ddim_of(kind: str, spacing: str, steps: int, beta: str = "linear") -> Any:
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.DDIMScheduler(
        beta_schedule=beta, prediction_type=kind, timestep_spacing=spacing, clip_sample=False
    )
    made.set_timesteps(steps)
    return made


def ddpm_of(kind: str, variance: str, spacing: str, steps: int, beta: str = "linear") -> Any:
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.DDPMScheduler(
        beta_schedule=beta, prediction_type=kind, variance_type=variance, timestep_spacing=spacing, clip_sample=False
    )
    made.set_timesteps(steps)
    return made


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("kind", "spacing", "steps"), FEW)
def test_ddim_is_that_of_diffusers_step_by_step(kind, eta, spacing, steps, monkeypatch):
    scheduler, step = ddim_of(kind, spacing, steps), ancestral.ddpm(eta)
    assert parity(scheduler, step, torch.float32, monkeypatch, eta=eta) < 1e-5
    assert parity(in_float64(scheduler), step, torch.float64, monkeypatch, eta=eta) < 1e-9


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(("kind", "spacing", "steps"), FEW)
def test_ddpm_is_that_of_diffusers_step_by_step(kind, variance, spacing, steps, monkeypatch):
    scheduler, step = ddpm_of(kind, variance, spacing, steps), ancestral.ddpm(1.0, VARIANCES[variance])
    assert parity(scheduler, step, torch.float32, monkeypatch) < 1e-5
    assert parity(in_float64(scheduler), step, torch.float64, monkeypatch) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "eta"), [("v_prediction", 0.5)])
def test_a_thousand_steps_of_ddim_are_those_of_diffusers(kind, eta, monkeypatch):
    scheduler = in_float64(ddim_of(kind, "trailing", 1000, "squaredcos_cap_v2"))
    assert parity(scheduler, ancestral.ddpm(eta), torch.float64, monkeypatch, eta=eta) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "variance"), [("epsilon", "fixed_small"), ("sample", "fixed_large")])
def test_a_thousand_steps_of_ddpm_are_those_of_diffusers(kind, variance, monkeypatch):
    scheduler = ddpm_of(kind, variance, "leading", 1000, "linear")
    step = ancestral.ddpm(1.0, VARIANCES[variance])
    if variance == "fixed_small":
        assert parity(scheduler, step, torch.float32, monkeypatch) < 1e-4
    assert parity(in_float64(scheduler), step, torch.float64, monkeypatch) < 1e-9
