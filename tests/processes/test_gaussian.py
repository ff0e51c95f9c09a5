"""Laws of the processes of values and vectors, and of the Gaussian bridges.

Means and covariances are no estimates: everything here that draws normals is an affine function of them, which
`verify.normals.moments` reads off (its equation (1)).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from normals import BRIDGES, SCHEDULE, close, every_schedule, f64, quickly
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.contracts import Query, spread
from textdiff.core.loop import sample
from textdiff.core.predictions import Normal
from textdiff.core.rng import Rng
from textdiff.processes.cold import Cold
from textdiff.processes.embedding import embedding
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import ancestral
from textdiff.verify.normals import Units, affine, moments
from textdiff.verify.values import last


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
MARKOV = ("ddpm", "half", "simple", "none")
every_case = pytest.mark.parametrize(("name", "shape"), CASES)
inputs = given(seed=st.integers(0, 2**62), level=st.floats(0.01, 1), lower=st.floats(0, 1))


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
        for rows in ([0], [3, 1]):
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


PAIRS = [(1.0, 0.9), (0.8, 0.3), (0.5, 0.499), (0.2, 0.0)]
every_pair = pytest.mark.parametrize("pair", PAIRS)


def at(level: float, x: Tensor) -> Tensor:
    return torch.full(x.shape[:2], level, dtype=torch.float64)


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
