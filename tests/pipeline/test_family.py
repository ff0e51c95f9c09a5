"""Flows of images and their straightening, and samples larger than the images that a model learnt."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from textdiff.core.contracts import Query
from textdiff.core.loop import sample
from textdiff.core.predictions import Normal
from textdiff.core.rng import Rng
from textdiff.core.schedules import SCHEDULES, cosine, flow, get_schedule, linear, log_snr, shifted
from textdiff.networks.denoiser import denoiser
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers.ancestral import improved
from textdiff.samplers.second_order import heun
from textdiff.shaping.upsample import above, level_of, matched, upsampled
from textdiff.training.data import Group, MicroBatches
from textdiff.training.images.reflow import bend, pairs
from textdiff.training.loss import corrupted, weighted_nll

FLOW = Gaussian(flow(), weighting="velocity")
MEAN, SPREAD = 1.5, 0.4  # of the Gaussian toy
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def rows(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return Rng(range(seed, seed + n)).normal(*shape)


def at(level: float, x: torch.Tensor) -> torch.Tensor:
    return torch.full((len(x), *(1 for _ in x.shape[1:])), level, dtype=torch.float64)


def run(predictor, process, x, levels):
    free = torch.ones(len(x), *(1 for _ in x.shape[1:]), dtype=torch.bool)
    rng = Rng(range(len(x)))
    return list(sample(x, free, levels, improved(), predictor=predictor, process=process, rng=rng, start=x))


def evenly(steps: int) -> list[float]:
    return [k / steps for k in reversed(range(steps))]


# -- rectified flow -------------------------------------------------------------------------------------------------------


def network(x, t, condition):
    return (x * 2 + t.reshape(-1, *(1 for _ in x.shape[1:]))).sin()


def test_the_loss_of_a_flow_is_the_squared_error_of_its_velocity():
    x0, t = rows(6, 3, 4, 4), torch.tensor([0.001, 0.1, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64).view(-1, 1, 1, 1)
    noise = FLOW.noise(x0, t, rng=Rng(range(6)))
    x_t = FLOW.corrupt(x0, t, noise)
    loss = weighted_nll(denoiser(network, flow(), "velocity"), FLOW, x0, x_t, t)
    told = ((noise - x0) - network(x_t, t.flatten(), None)).square().sum() / 2
    torch.testing.assert_close(loss, told, rtol=1e-6, atol=0)  # the weights are float32


def test_ddim_on_a_flow_is_eulers_method():
    x, levels = rows(3, 2, 4, 4), [0.8, 0.55, 0.2, 0.0]
    states = run(denoiser(network, flow(), "velocity"), FLOW, x, levels)
    t = 1.0
    for s, state in zip(levels, states[1:], strict=True):
        x = x + (s - t) * network(x, torch.full((3,), t, dtype=torch.float64), None)
        torch.testing.assert_close(state.x, x, rtol=1e-6, atol=1e-6)  # slopes are differences
        t = s


@every_schedule
@pytest.mark.parametrize("output", ["velocity", "data", "noise"])
def test_the_first_step_is_finite_wherever_the_output_says_anything_of_x0(name, output):
    if (name, output) == ("flow", "noise"):
        return  # at ᾱ = 0 the noise says nothing of x0: why flows are told as velocities
    states = run(
        denoiser(network, get_schedule(name), output), Gaussian(get_schedule(name)), rows(2, 1, 4, 4), [0.5, 0.0]
    )
    assert all(state.x.isfinite().all() for state in states)


# -- the Gaussian toy, where everything is known --------------------------------------------------------------------------


def by_chance(x_t, t, condition):
    """E[ε − x0 | x_t] with x0 ~ N(MEAN, SPREAD²) and ε drawn apart from it."""
    t = t.reshape(-1, *(1 for _ in x_t.shape[1:])).to(x_t.dtype)
    variance = (1 - t).square() * SPREAD**2 + t.square()
    return (t - (1 - t) * SPREAD**2) / variance * (x_t - (1 - t) * MEAN) - MEAN


def straightened(x_t, t, condition):
    """ε − x0 with x0 = MEAN + SPREAD·ε, where the ODE of `by_chance` leads: a function of x_t."""
    t = t.reshape(-1, *(1 for _ in x_t.shape[1:])).to(x_t.dtype)
    noise = (x_t - (1 - t) * MEAN) / ((1 - t) * SPREAD + t)
    return noise - (MEAN + SPREAD * noise)


FIRST, SECOND = (denoiser(f, flow(), "velocity") for f in (by_chance, straightened))
SEEDS = torch.arange(64) * 7919


def test_pairs_follow_the_ode_from_the_noise_that_training_draws():
    told = {"predictor": FIRST, "process": FLOW, "step": heun()}
    x0 = pairs((3,), SEEDS, evenly(60), rows=48, **told)
    noise = corrupted(FLOW, torch.zeros(64, 3), torch.ones(64, 1, dtype=torch.float64), SEEDS)
    torch.testing.assert_close(x0, MEAN + SPREAD * noise, rtol=0, atol=5e-3)
    alone = pairs((3,), SEEDS[5:6], evenly(60), **told)
    assert torch.equal(alone, x0[5:6])  # a pair depends on its own seed alone


def batches(x0: torch.Tensor, seeds: torch.Tensor | None) -> MicroBatches:
    group = Group(x0, torch.zeros(len(x0), 0, dtype=torch.long), torch.ones(1, dtype=torch.bool), seeds)
    return MicroBatches([group], {"gaussian": FLOW}, {"gaussian": 1.0}, batch=len(x0), pieces=1, steps=100, seed=3)


def loss_on(data: MicroBatches, predictor, step: int) -> float:
    told = data[step]
    x_t = corrupted(FLOW, told["x0"], told["t"], told["seeds"])
    return weighted_nll(predictor, FLOW, told["x0"], x_t, told["t"]).item() / told["x0"].numel()


def test_the_straight_flow_has_no_loss_on_its_pairs_and_the_first_one_has():
    noise = corrupted(FLOW, torch.zeros(64, 3), torch.ones(64, 1, dtype=torch.float64), SEEDS)
    x0 = MEAN + SPREAD * noise
    for step in (0, 1, 5):  # in every epoch: the seeds of the pairs stay, their order and levels do not
        assert loss_on(batches(x0, SEEDS), SECOND, step) < 1e-9
        assert loss_on(batches(x0, SEEDS), FIRST, step) > 1e-2
        assert loss_on(batches(x0, None), SECOND, step) > 1e-2  # the same pictures with noise by chance
    levels = [batches(x0, SEEDS)[step]["t"].sort(0).values for step in (0, 1)]
    assert not torch.equal(*levels)


def test_reflow_straightens_and_one_step_then_lands_where_many_do():
    x = rows(400, 2)
    told = {}
    for name, predictor in (("first", FIRST), ("second", SECOND)):
        fine = run(predictor, FLOW, x, evenly(100))
        once = run(predictor, FLOW, x, [0.0])[-1].x
        told[name] = bend(fine).mean().item(), (once - fine[-1].x).square().mean().item(), once.std().item()
    assert told["first"][0] > 0.05 and told["second"][0] < 1e-8
    assert told["first"][1] > 0.1 and told["second"][1] < 1e-8
    assert told["first"][2] < 1e-3  # one step of the first flow is the mean of the data
    assert abs(told["second"][2] - SPREAD) < 4 * SPREAD / math.sqrt(2 * x.numel())


@pytest.mark.slow
def test_a_learnt_flow_on_two_clusters_is_straightened_by_the_same_loss():
    """Noise in the plane, data at (±2, 0): paths of a flow by chance bend away from the middle."""
    n = 128
    seeds = torch.arange(n) + 10**6
    x0 = torch.stack([torch.where(torch.arange(n) % 2 == 0, 2.0, -2.0), torch.zeros(n)], -1) + 0.2 * rows(n, 2).float()
    first = learnt(batches(x0, None))
    drawn = pairs((2,), seeds, evenly(32), predictor=first, process=FLOW)
    second = learnt(batches(drawn, seeds))
    x = rows(n, 2, seed=77).float()
    bends, gaps = [], []
    for predictor in (first, second):
        fine = run(predictor, FLOW, x, evenly(32))
        bends.append(bend(fine).mean().item())
        gaps.append((run(predictor, FLOW, x, [0.0])[-1].x - fine[-1].x).square().mean().item())
    assert bends[1] < bends[0] / 2
    assert gaps[1] < gaps[0] / 2


def learnt(data: MicroBatches):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2))
    predictor = denoiser(lambda x, t, c: net(torch.cat([x, t[:, None].to(x.dtype)], -1)), flow(), "velocity")
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 150)
        told = data[step % 100]
        x_t = corrupted(FLOW, told["x0"], told["t"], told["seeds"])
        loss = weighted_nll(predictor, FLOW, told["x0"], x_t, told["t"]) / told["positions"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return predictor


# -- larger images --------------------------------------------------------------------------------------------------------


@every_schedule
def test_the_level_of_a_ratio_is_the_inverse_of_the_schedule(name):
    t = torch.linspace(0.01, 0.99, 40, dtype=torch.float64)
    schedule = get_schedule(name)
    torch.testing.assert_close(level_of(schedule, log_snr(schedule, t)), t, rtol=0, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("level", [1.0, 0.7, 0.2])
def test_an_averaged_noisy_image_is_a_noisy_average_at_the_matched_level(name, level):
    """In law: the same signal, and the same deviation of the noise within 4 standard errors."""
    schedule, n = get_schedule(name), 64
    x0 = rows(1, 1, 16, 16).expand(n, -1, -1, -1)
    process, t = Gaussian(schedule), at(level, x0)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=Rng(range(n))))
    tau, scale = matched(schedule, t, 2)
    small = avg_pool2d(x_t, 2) * scale
    alpha, beta = (rate[0].item() for rate in schedule(tau))
    noise = small - alpha * avg_pool2d(x0, 2)
    error = beta / math.sqrt(noise.numel())
    assert abs(noise.mean().item()) < 4 * error
    assert abs(noise.std().item() - beta) < 4 * error / math.sqrt(2)


def test_level_0_is_matched_by_level_0():
    tau, scale = matched(cosine(), torch.zeros(2), 2)
    assert tau.tolist() == [0, 0] and scale.tolist() == [1, 1]


def test_no_weight_is_the_predictor_itself():
    x, t = rows(2, 1, 8, 8), at(0.6, rows(2, 1, 8, 8))
    plain = denoiser(network, cosine(), "v")
    told = []

    def counted(query):
        x_t = query.x_t
        told.append(x_t.shape)
        return plain(query)

    assert torch.equal(upsampled(counted, cosine(), weight=0.0)(Query(x, t)).mean, plain(Query(x, t)).mean)
    assert torch.equal(upsampled(counted, cosine(), weight=above(0.7))(Query(x, t)).mean, plain(Query(x, t)).mean)
    assert len(told) == 2  # no second evaluation where it would count for nothing
    upsampled(counted, cosine(), weight=above(0.5))(Query(x, t))
    assert told[2:] == [(2, 1, 8, 8), (2, 1, 4, 4)]


def test_full_weight_takes_the_small_images_averages_and_the_large_ones_detail():
    x, t = rows(2, 1, 8, 8), at(0.6, rows(2, 1, 8, 8))
    plain = denoiser(network, cosine(), "v")
    large, guided = plain(Query(x, t)).mean, upsampled(plain, cosine(), weight=1.0)(Query(x, t)).mean
    tau, scale = matched(cosine(), t, 2)
    small = plain(Query(avg_pool2d(x, 2) * scale, tau)).mean
    torch.testing.assert_close(avg_pool2d(guided, 2), small)
    detail = large - avg_pool2d(large, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(guided - small.repeat_interleave(2, -1).repeat_interleave(2, -2), detail)


def test_guidance_is_the_papers_formula_for_the_noise():
    x, t = rows(2, 1, 8, 8), at(0.4, rows(2, 1, 8, 8))
    schedule, w, m = linear(), 0.3, 2
    guided = upsampled(denoiser(network, schedule), schedule, weight=w)(Query(x, t)).mean
    level = t.flatten()
    tau, scale = matched(schedule, t, m)
    own = network(x, level, None)
    small = network(avg_pool2d(x, m) * scale, tau.flatten(), None)
    noise = own + w * (small / m - avg_pool2d(own, m)).repeat_interleave(m, -1).repeat_interleave(m, -2)
    alpha, beta = schedule(t)
    torch.testing.assert_close(guided, (x - beta * noise) / alpha)


def test_an_exact_predictor_of_flat_pictures_is_left_as_it_is():
    """Data of independent N(0, 1) squares of 2 × 2: the small model and the large one know the same, so nothing is corrected."""

    def exact(query):
        x_t, t = query.x_t, query.t
        alpha, beta = cosine()(t)
        m = x_t.shape[-1] // 4  # each of the 4 × 4 squares is seen m × m times
        mean = avg_pool2d(x_t, m) * alpha / (alpha.square() + beta.square() / m**2)
        return Normal.point(mean.repeat_interleave(m, -1).repeat_interleave(m, -2))

    x, t = rows(3, 1, 8, 8), at(0.5, rows(3, 1, 8, 8))
    torch.testing.assert_close(upsampled(exact, cosine(), weight=1.0)(Query(x, t)).mean, exact(Query(x, t)).mean)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: upsampled(FIRST, flow(), factor=0), "factor is 0"),
        (lambda: above(1.5), "level is 1.5"),
        (lambda: upsampled(FIRST, flow())(Query(rows(1, 1, 5, 4), torch.ones(1, 1, 1, 1))), "5 x 4"),
    ],
)
def test_what_cannot_be_enlarged_is_said(call, told):
    with pytest.raises(ValueError, match=told):
        call()


@every_schedule
def test_a_shifted_schedule_gives_the_averaged_image_the_ratio_of_the_small_one(name):
    small, t = get_schedule(name), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    large = shifted(small, 8 / 16)
    torch.testing.assert_close(log_snr(large, t) + 2 * math.log(2), log_snr(small, t))
    x0 = torch.zeros(64, 1, 16, 16)
    noise = Gaussian(large).corrupt(x0, at(0.5, x0), rows(64, 1, 16, 16).float())
    pooled, (alpha, _), (a, b) = avg_pool2d(noise, 2), large(at(0.5, x0)), small(at(0.5, x0))
    ratio = (pooled / alpha).std().item() / (b / a)[0].item()
    assert abs(ratio - 1) < 4 / math.sqrt(2 * pooled.numel())
