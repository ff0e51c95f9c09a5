"""Laws of the processes of values and vectors, of the Gaussian bridges, chains, bounds and losses, and parity with diffusers.

Means and covariances are no estimates: everything here that draws normals is an affine function of them, which
`verify.normals.moments` reads off (its equation (1)).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.contracts import Query, spread
from textdiff.core.likelihood import nelbo
from textdiff.core.loop import sample
from textdiff.core.predictions import Bins, Normal
from textdiff.core.rng import Rng
from textdiff.core.schedules import STEPS, get_schedule, slopes
from textdiff.networks.denoiser import denoiser, noise_of
from textdiff.processes.cold import Cold
from textdiff.processes.embedding import embedding
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import ancestral
from textdiff.training.loss import weighted_nll
from textdiff.verify.normals import SIGNS, GaussianLaw, Units, affine, expected_bound, linear_predictor, moments
from textdiff.verify.values import chain_law, last

SCHEDULE = {name: get_schedule(name) for name in ("linear", "cosine", "flow")}
SCHEDULE["own"] = lambda t: (1 - t.double() ** 2 / 2, 2 * t.double())  # general α, β


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# -- identities of every process of values or vectors ------------------------------------------------------------------


def fade(x0: Tensor, t: Tensor) -> Tensor:
    return (1 - spread(t, x0)) * x0


TABLE = torch.randn(7, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
PROCESSES = {
    "gaussian": Gaussian(SCHEDULE["cosine"]),
    "general": Gaussian(SCHEDULE["own"]),
    "flow": Gaussian(SCHEDULE["flow"]),
    "cold": Cold(fade),
    "cold with noise": Cold(fade, sigma=0.3),
    "embedding": embedding(TABLE, torch.arange(7), SCHEDULE["linear"]),
}
CHAIN = ("gaussian", "general", "flow", "embedding")  # those that a Markov chain serves
SHAPES = {  # of x0 and of the places, without rows
    "values": ((5,), (5,)),
    "vectors": ((4, 3), (4,)),
    "images, whole": ((2, 3, 3), (1, 1, 1)),
    "images, by pixel": ((2, 3, 3), (1, 3, 3)),
}
CASES = [(p, s) for p in PROCESSES for s in SHAPES if p != "embedding" or s == "values"]
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
MARKOV = ("ddpm", "half", "simple", "none")

every_case = pytest.mark.parametrize(("name", "shape"), CASES)
inputs = given(seed=st.integers(0, 2**62), level=st.floats(0.01, 1), lower=st.floats(0, 1))
quickly = settings(max_examples=12, deadline=None)


def example(name: str, shape: str, seed: int, level: float = 0.6, rows: int = 4) -> tuple[Tensor, Tensor, Tensor, Rng]:
    """x0, free and t (rows at different levels, the places that are not free at 0), and an rng."""
    inside, places = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed % 2**31)
    if name == "embedding":
        x0 = torch.randint(7, (rows, *inside), generator=generator)
    else:
        x0 = torch.randn(rows, *inside, generator=generator, dtype=torch.float64)
    free = torch.rand(rows, *places, generator=generator) < 0.7
    free[0] = True
    falling = spread(torch.linspace(1, 0.5, rows, dtype=torch.float64), free)
    return x0, free, torch.where(free, level * falling, 0.0), Rng([seed + k for k in range(rows)])


def draft_of(name: str, x0: Tensor) -> Tensor:
    """Another x0, as a predictor might say."""
    return 6 - x0 if name == "embedding" else x0.flip(0) + 0.5


def bridges_of(name: str) -> list[str]:
    return [b for b in BRIDGES if name in CHAIN or b not in MARKOV]


def unfree(free: Tensor, x: Tensor) -> Tensor:
    return ~spread(free, x).expand_as(x)


@every_case
@inputs
@quickly
def test_level_0_changes_nothing(name, shape, seed, level, lower):
    process = PROCESSES[name]
    x0, _, t, rng = example(name, shape, seed, level)
    clean = getattr(process, "encode", lambda x: x)(x0)
    noise = process.noise(x0, t, rng=rng)
    assert torch.equal(process.corrupt(x0, torch.zeros_like(t), noise), clean)
    assert torch.equal(process.decode(clean), x0)


@every_case
@inputs
@quickly
def test_recovered_noise_leads_back_to_x_t_whatever_the_draft(name, shape, seed, level, lower):
    process = PROCESSES[name]
    x0, free, t, rng = example(name, shape, seed, level)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    for draft in (x0, draft_of(name, x0)):
        back = process.corrupt(draft, t, process.recover(draft, x_t, t, rng=rng))
        assert torch.allclose(back[~unfree(free, x_t)], x_t[~unfree(free, x_t)], rtol=0, atol=1e-12)


@every_case
@inputs
@quickly
def test_corruption_is_pure(name, shape, seed, level, lower):
    process = PROCESSES[name]
    x0, _, t, rng = example(name, shape, seed, level)
    before, noise = x0.clone(), process.noise(x0, t, rng=rng)
    assert torch.equal(process.corrupt(x0, t, noise), process.corrupt(x0, t, noise))
    assert torch.equal(x0, before)


@every_case
@inputs
@quickly
def test_what_is_given_stays_bit_identical(name, shape, seed, level, lower):
    process = PROCESSES[name]
    x0, free, t, rng = example(name, shape, seed, level)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    clean = process.corrupt(x0, torch.zeros_like(t), torch.zeros_like(x_t))
    found = [x_t, process.prior(x0, free, rng=rng)]
    pinned = torch.where(spread(free, x0), draft_of(name, x0), x0)  # the loop pins every draft
    found += [BRIDGES[b](process, pinned, x_t, t, t * lower, rng=rng) for b in bridges_of(name)]
    for x in found:
        assert torch.equal(x[unfree(free, x)], clean[unfree(free, x)])


def uneven(query: Query) -> Normal:
    """Deviations in the odd levels alone, so that one row needs a draw of its draft and its neighbour does not."""
    x_t, t = query.x_t, query.t
    wide = (t.flatten(1).amax(-1) * 40).round() % 2
    return Normal(x_t.cos(), 0.3 * spread(wide, x_t).expand_as(x_t))


def token_by_sign(query: Query) -> Any:
    x_t = query.x_t
    from textdiff.core.predictions import Categorical

    return Categorical.from_logits(x_t @ TABLE.T, torch.zeros(x_t.shape[:2], dtype=torch.long))


def whole_chain(name: str, bridge: str, x0: Tensor, free: Tensor, seeds: Tensor, first: Tensor) -> Tensor:
    """x after four levels below `first` (B,)."""
    predictor = token_by_sign if name == "embedding" else uneven
    step = ancestral.ancestral(BRIDGES[bridge])
    level = first[:, None]
    walk = [level * 3 / 4, level / 2, level / 4, torch.zeros_like(level)]
    process = PROCESSES[name]
    rng = Rng(seeds)
    start = process.corrupt(x0, free.double(), process.noise(x0, free.double(), rng=rng))
    return last(sample(x0, free, walk, step, predictor=predictor, process=process, rng=rng, start=start, level=level)).x


@every_case
def test_sampling_keeps_what_is_given_and_knows_no_neighbours(name, shape):
    x0, free, _, _ = example(name, shape, 11)
    first = f64(1.0, 0.9, 0.8, 0.7)
    clean = PROCESSES[name].corrupt(x0, torch.zeros(free.shape).double(), torch.zeros(()))
    for bridge in bridges_of(name):
        seeds = torch.arange(4)
        whole = whole_chain(name, bridge, x0, free, seeds, first)
        assert torch.equal(whole[unfree(free, whole)], clean[unfree(free, whole)])
        assert not torch.isnan(whole).any()
        for rows in ([0], [1], [3, 1]):
            alone = whole_chain(name, bridge, x0[rows], free[rows], seeds[rows], first[rows])
            assert torch.equal(alone, whole[rows]), (bridge, rows)


def test_a_chain_begins_at_the_very_level_it_is_told():
    x, free = torch.zeros(2, 3), torch.tensor([[True, True, False]] * 2)
    for level in (0.9, f64([0.9], [0.9])):
        (state,) = sample(
            x, free, [], None, predictor=None, process=PROCESSES["flow"], rng=Rng([1, 2]), start=x + 1, level=level
        )
        assert torch.equal(state.t, free * f64(0.9)) and torch.equal(state.x, free.float())


@every_case
def test_moves_says_whether_a_level_changes_up_or_down(name, shape):
    _, free, t, _ = example(name, shape, 2)
    process = PROCESSES[name]
    for s, moves in ((t / 2, True), (t * 1.5, True), (t, False)):
        assert (process.moves(t, s) == (free.flatten(1).any(-1) & moves)).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_float32_stays_float32(name):
    if name == "embedding":
        process, x0 = embedding(TABLE.float(), torch.arange(7), SCHEDULE["linear"]), torch.tensor([[1, 2]])
    else:
        process, x0 = PROCESSES[name], torch.ones(1, 2)
    t, rng = f64([0.5, 0.0]), Rng([1])
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    found = [x_t, process.prior(x0, t > 0, rng=rng)]
    found += [BRIDGES[b](process, x0, x_t, t, t / 2, rng=rng) for b in bridges_of(name)]
    assert all(x.dtype == torch.float32 for x in found)


# -- laws of noise and bridges -------------------------------------------------------------------------------------------

PAIRS = [(1.0, 0.9), (0.8, 0.3), (0.5, 0.499), (0.2, 0.0)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULE)
every_pair = pytest.mark.parametrize("pair", PAIRS)


def at(level: float, x: Tensor) -> Tensor:
    return torch.full(x.shape[:2], level, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return torch.allclose(a, b.expand_as(a), rtol=0, atol=tolerance)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_noise_and_renewed_noise_are_standard_normal(share):
    process = Gaussian(SCHEDULE["linear"])

    def f(rng: Rng) -> Tensor:
        x = torch.zeros(len(rng.keys), 2, dtype=torch.float64)
        noise = process.noise(x, at(0.5, x), rng=rng)
        return torch.cat([noise, process.renew(noise, x, at(0.5, x), share, rng=rng)], -1)

    mean, covariance = moments(f)
    kept = math.sqrt(1 - share)
    expected = torch.eye(4).double() + kept * (torch.eye(4).double().roll(2, 0))
    assert close(mean, f64(0.0)) and close(covariance, expected)


@every_schedule
@every_pair
@pytest.mark.parametrize("bridge", ["fresh", "reuse", "improved", "refresh", "ddpm", "half"])
def test_a_bridge_takes_the_law_at_t_to_the_law_at_s(schedule, pair, bridge):
    process, x0 = Gaussian(SCHEDULE[schedule]), f64(0.7, -1.3)

    def f(rng: Rng) -> Tensor:
        x = x0.expand(len(rng.keys), 2)
        x_t = process.corrupt(x, at(pair[0], x), process.noise(x, at(pair[0], x), rng=rng))
        return BRIDGES[bridge](process, x, x_t, at(pair[0], x), at(pair[1], x), rng=rng)

    mean, covariance = moments(f)
    alpha, beta = SCHEDULE[schedule](f64(pair[1]))
    assert close(mean, alpha * x0) and close(covariance, beta**2 * torch.eye(2).double())


@every_schedule
@pytest.mark.parametrize("pair", [(0.3, 0.8), (0.0001, 0.5)])
@pytest.mark.parametrize("bridge", ["reuse", "ddpm", "none"])
def test_re_used_noise_also_leads_upwards_and_none_is_added(schedule, pair, bridge):
    process, x0, noise = Gaussian(SCHEDULE[schedule]), f64([0.7, -1.3]), f64([0.2, 2.0])
    x_t, x_s = (process.corrupt(x0, at(level, x0), noise) for level in pair)
    found = BRIDGES[bridge](process, x0, x_t, at(pair[0], x0), at(pair[1], x0), rng=Rng([0]))
    assert close(found, x_s)


@every_schedule
@every_pair
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_markov_bridge_is_the_textbook_posterior(schedule, pair, eta):
    """At eta 1 Bayes' rule on the chain, worked out by its covariance; between, σ = η β_s β_{t|s}/β_t and the rest re-used."""
    process = Gaussian(SCHEDULE[schedule])
    x0 = f64(0.7)

    def f(rng: Rng) -> Tensor:
        x = x0.expand(len(rng.keys), 1)
        x_t = process.corrupt(x, at(pair[0], x), process.noise(x, at(pair[0], x), rng=rng))
        return torch.cat([x_t, bridges.markov(eta)(process, x, x_t, at(pair[0], x), at(pair[1], x), rng=rng)], -1)

    _, covariance = moments(f)
    (a_t, b_t), (a_s, b_s) = (SCHEDULE[schedule](f64(level)) for level in pair)
    step = b_t**2 - (a_t / a_s) ** 2 * b_s**2  # β²_{t|s}
    sigma = eta * b_s * step.sqrt() / b_t
    rest = covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0]
    assert close(rest, sigma[0] ** 2)
    assert close(covariance[0, 1], (b_s**2 - sigma**2).sqrt()[0] * b_t[0])
    if eta == 1:
        assert close(covariance[0, 1], (a_t / a_s * b_s**2)[0])


@every_schedule
@every_pair
@pytest.mark.parametrize("eta", [0.4, 1.0])
@pytest.mark.parametrize("kind", ["simple", "none"])
def test_the_other_variances_keep_the_mean_and_change_the_noise_alone(schedule, pair, eta, kind):
    process, x_t = Gaussian(SCHEDULE[schedule]), f64(0.4, 2.0)

    def by(bridge: Any) -> tuple[Tensor, Tensor]:
        def f(rng: Rng) -> Tensor:
            x = x_t.expand(len(rng.keys), 2)
            return bridge(process, x.cos(), x, at(pair[0], x), at(pair[1], x), rng=rng)

        return moments(f)

    (mean, _), (found, covariance) = by(bridges.markov(eta)), by(bridges.markov(eta, kind))
    (a_t, b_t), (a_s, b_s) = (SCHEDULE[schedule](f64(level)) for level in pair)
    step = eta**2 * (b_t**2 - (a_t / a_s) ** 2 * b_s**2) if kind == "simple" and pair[1] > 0 else f64(0.0)
    assert close(found, mean) and close(covariance, step * torch.eye(2).double())


@every_schedule
def test_the_prior_is_normal_with_the_scale_of_data_of_unit_variance(schedule):
    process = Gaussian(SCHEDULE[schedule])

    def f(rng: Rng) -> Tensor:
        x = torch.full((len(rng.keys), 2), 3.0, dtype=torch.float64)
        return process.prior(x, torch.ones_like(x).bool(), rng=rng)

    mean, covariance = moments(f)
    alpha, beta = SCHEDULE[schedule](f64(1.0))
    assert close(mean, f64(0.0)) and close(covariance, (alpha**2 + beta**2) * torch.eye(2).double())


@pytest.mark.parametrize(("eta", "kind"), [(-0.1, "posterior"), (1.1, "posterior"), (1.0, "large")])
def test_what_no_bridge_can_be_is_refused(eta, kind):
    with pytest.raises(ValueError, match=r"eta is|last is"):
        bridges.markov(eta, kind)


def test_units_refuse_draws_that_are_not_affine():
    with pytest.raises(ValueError, match="affine"):
        Units(3).uniform(2)
    mean, columns = affine(lambda rng: 2 + rng.normal(2) @ f64([1.0, 3.0], [0.0, 1.0]))
    assert torch.equal(mean, f64(2.0, 2.0)) and torch.equal(columns, f64([1.0, 3.0], [0.0, 1.0]))


# -- Gaussian data: whole chains -------------------------------------------------------------------------------------------

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
        chain_distance(process, ancestral.ddpm(eta), steps, predictor, MEAN, COVARIANCE) for steps in (10, 40, 160)
    )
    assert more < 0.45 * few and many < 0.3 * more and many < 0.05


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
def test_without_the_noise_of_the_posterior_or_with_all_of_it_new_they_do_not(schedule):
    process = Gaussian(SCHEDULE[schedule])
    predictor = linear_predictor(process.schedule, MEAN, COVARIANCE)
    for step in (ancestral.ddpm(1.0, "none"), ancestral.baseline()):
        assert chain_distance(process, step, 160, predictor, MEAN, COVARIANCE) > 0.2


@every_schedule
@pytest.mark.parametrize("bridge", ["fresh", "reuse", "refresh", "ddpm", "half"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_drafts_drawn_from_the_whole_posterior_make_any_chain_exact(schedule, bridge, steps):
    process = Gaussian(SCHEDULE[schedule])
    for mean, covariance in ((f64(0.5), f64([0.3])), (MEAN, 0.4 * torch.eye(3).double())):
        predictor = linear_predictor(process.schedule, mean, covariance, drawn=True)
        step = ancestral.ancestral(BRIDGES[bridge])
        assert chain_distance(process, step, steps, predictor, mean, covariance) < 1e-6


# -- bounds ------------------------------------------------------------------------------------------------------------------


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


# -- what networks say, and what the loss weighs ----------------------------------------------------------------------------


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


# -- score matching ----------------------------------------------------------------------------------------------------------


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


# -- diffusers ---------------------------------------------------------------------------------------------------------------


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
FEW = [(s, n) for s in ("trailing", "leading") for n in (10, 50)]
WHOLE = [("trailing", 1000)]


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("spacing", "steps"), FEW)
def test_ddim_is_that_of_diffusers_step_by_step(kind, eta, spacing, steps, monkeypatch):
    scheduler, step = ddim_of(kind, spacing, steps), ancestral.ddpm(eta)
    assert parity(scheduler, step, torch.float32, monkeypatch, eta=eta) < 1e-5
    assert parity(in_float64(scheduler), step, torch.float64, monkeypatch, eta=eta) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(("spacing", "steps"), FEW)
def test_ddpm_is_that_of_diffusers_step_by_step(kind, variance, spacing, steps, monkeypatch):
    scheduler, step = ddpm_of(kind, variance, spacing, steps), ancestral.ddpm(1.0, VARIANCES[variance])
    assert parity(scheduler, step, torch.float32, monkeypatch) < 1e-5
    assert parity(in_float64(scheduler), step, torch.float64, monkeypatch) < 1e-9


@pytest.mark.parametrize(("kind", "eta"), [("v_prediction", 0.5)])
def test_a_thousand_steps_of_ddim_are_those_of_diffusers(kind, eta, monkeypatch):
    scheduler = in_float64(ddim_of(kind, "trailing", 1000, "squaredcos_cap_v2"))
    assert parity(scheduler, ancestral.ddpm(eta), torch.float64, monkeypatch, eta=eta) < 1e-9


@pytest.mark.parametrize(("kind", "variance"), [("epsilon", "fixed_small"), ("sample", "fixed_large")])
def test_a_thousand_steps_of_ddpm_are_those_of_diffusers(kind, variance, monkeypatch):
    scheduler = ddpm_of(kind, variance, "leading", 1000, "linear")
    step = ancestral.ddpm(1.0, VARIANCES[variance])
    if variance == "fixed_small":
        assert parity(scheduler, step, torch.float32, monkeypatch) < 1e-4
    assert parity(in_float64(scheduler), step, torch.float64, monkeypatch) < 1e-9
