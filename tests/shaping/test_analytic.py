"""Laws of the analytic variance: what the exact predictor leaves open, on data where it is known."""

from __future__ import annotations

import json
import math

import pytest
import torch
from normals import Data, everywhere, isotropic

from textdiff.core.contracts import Query
from textdiff.core.levels import even_levels
from textdiff.core.likelihood import nelbo
from textdiff.core.loop import sample
from textdiff.core.predictions import Normal
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers.ancestral import ddpm, improved
from textdiff.shaping.analytic import NoisePower, analytic, noise_power, posterior_deviation

LEVELS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
every_schedule = pytest.mark.parametrize("name", ["linear", "cosine", "flow"])


def table_of(data: Data, schedule, levels=LEVELS) -> NoisePower:
    """The table without any sampling error."""
    alpha, beta = schedule(torch.tensor(levels, dtype=torch.float64))
    left = torch.tensor([data.left(schedule, level) for level in levels], dtype=torch.float64)
    powers = 1 - left * (alpha / beta).square()
    deviation = data.covariance.diagonal().mean().sqrt().item()
    return NoisePower(tuple(levels), tuple(powers.tolist()), tuple(left.tolist()), deviation)


@every_schedule
@pytest.mark.parametrize("by", ["power", "error"])
def test_the_analytic_variance_is_the_exact_posterior_variance(name, by):
    data, schedule, n, parts = Data(), get_schedule(name), 300, 8
    alpha, beta = schedule(torch.tensor(LEVELS, dtype=torch.float64))
    found = []
    for k in range(parts):
        x0 = data.draw(n, seed=k * n)
        table = noise_power(data.predictor(schedule), schedule, x0, LEVELS, seeds=torch.arange(n) + k * n)
        left = (beta / alpha).square() * (1 - torch.tensor(table.powers, dtype=torch.float64))
        found.append(left if by == "power" else torch.tensor(table.errors, dtype=torch.float64))
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(parts)
    exact = torch.tensor([data.left(schedule, level) for level in LEVELS], dtype=torch.float64)
    assert ((mean - exact).abs() < 5 * error).all()
    assert (error < 0.1 * exact).all()  # at high levels, too, where the factor is 1e4


@every_schedule
def test_from_exact_powers_the_variance_is_exact(name):
    data, schedule = Data(), get_schedule(name)
    t = torch.tensor(LEVELS, dtype=torch.float64)
    exact = torch.tensor([data.left(schedule, level) for level in LEVELS], dtype=torch.float64)
    for by in ("power", "error"):
        found = posterior_deviation(table_of(data, schedule), schedule, by=by)(t).square()
        torch.testing.assert_close(found, exact, rtol=1e-8, atol=0)


@every_schedule
@pytest.mark.parametrize("levels", [LEVELS, (0.4,)])
def test_between_levels_isotropic_data_has_the_exact_variance_and_other_data_nearly(name, levels):
    schedule, between = get_schedule(name), torch.tensor([[0.001, 0.05], [0.42, 1.0]], dtype=torch.float64)
    for data, tolerance in ((isotropic(2, 0.7), 1e-6), (Data(), 0.06)):
        exact = torch.tensor([[data.left(schedule, level) for level in row] for row in between.tolist()])
        found = posterior_deviation(table_of(data, schedule, levels), schedule)(between)
        if tolerance < 0.01 or len(levels) > 1:
            torch.testing.assert_close(found.square(), exact.double(), rtol=tolerance, atol=1e-7)


def bounds(data: Data, steps: int, with_variance: bool, n: int = 200) -> torch.Tensor:
    schedule = get_schedule("cosine")
    x0 = data.draw(n)
    predictor = data.predictor(schedule)
    if with_variance:
        predictor = analytic(predictor, table_of(data, schedule), schedule)
    process = Gaussian(schedule, steps=steps)
    return nelbo(x0, everywhere(x0), predictor=predictor, process=process, seeds=torch.arange(n), rows=10_000)


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_the_bound_with_analytic_variance_is_lower(steps):
    gained = bounds(Data(), steps, False) - bounds(Data(), steps, True)
    assert gained.mean() > 5 * gained.std() / math.sqrt(len(gained))


@pytest.mark.parametrize("steps", [3, 10])
def test_the_bound_of_isotropic_data_is_tight_with_any_number_of_steps(steps):
    data = isotropic()
    excess = bounds(data, steps, True) + data.log_density(data.draw(200))
    assert abs(excess.mean()) < 5 * excess.std() / math.sqrt(200)
    loose = bounds(data, steps, False) + data.log_density(data.draw(200))
    assert loose.mean() > 5 * loose.std() / math.sqrt(200)


@pytest.mark.parametrize("steps", [5, 10])
def test_few_ddpm_steps_keep_more_of_the_datas_covariance(steps):
    data, schedule, n = Data(), get_schedule("cosine"), 4000
    process, x = Gaussian(schedule), torch.zeros(n, 3, dtype=torch.float64)

    def gap(predictor) -> float:
        rng = Rng(range(n))
        told = {"predictor": predictor, "process": process, "rng": rng}
        *_, state = sample(x, everywhere(x), even_levels(steps), ddpm(), **told)
        return (torch.cov(state.x.T) - data.covariance).norm().item()

    exact = data.predictor(schedule)
    wide = analytic(exact, table_of(data, schedule), schedule, last=1 / steps)
    assert gap(wide) < 0.6 * gap(exact)


def test_for_a_predictor_that_is_off_its_own_error_gives_the_better_bound():
    data, schedule, n = isotropic(), get_schedule("cosine"), 200
    x0 = data.draw(n)

    def off(query):
        x_t, t = query.x_t, query.t
        prediction = data.predictor(schedule)(Query(x_t, t))
        return Normal.point(prediction.mean + 0.5)

    table = noise_power(off, schedule, x0, [k / 10 for k in range(1, 11)], seeds=torch.arange(n))
    by_power, by_error = (
        nelbo(
            x0, everywhere(x0), process=Gaussian(schedule, steps=10), seeds=torch.arange(n), rows=10_000,
            predictor=analytic(off, table, schedule, by=by),
        )
        for by in ("power", "error")
    )  # fmt: skip
    gained = by_power - by_error
    assert gained.mean() > 5 * gained.std() / math.sqrt(n)


def test_powers_above_1_and_deviations_beyond_the_datas_are_cut():
    schedule, t = get_schedule("linear"), torch.tensor([0.3, 0.9], dtype=torch.float64)
    above = NoisePower((0.3, 0.9), (1.01, 1.5), (0.1, 0.1), 0.8)
    assert (posterior_deviation(above, schedule)(t) == 0).all()
    one_above = NoisePower((0.3, 0.9), (1.5, 0.9999), (0.1, 0.1), 0.8)
    half, whole = (posterior_deviation(one_above, schedule)(torch.tensor([k]).double()).square() for k in (0.6, 0.9))
    alone = table_of(isotropic(1, 0.8), schedule)
    most, more = (posterior_deviation(alone, schedule)(torch.tensor([k]).double()).square() for k in (0.6, 0.9))
    assert whole > 0.1 and torch.allclose(half / most, whole / more / 2)
    wild = NoisePower((0.3, 0.9), (-5.0, 0.0), (50.0, 50.0), 0.8)
    for by in ("power", "error"):
        assert torch.allclose(posterior_deviation(wild, schedule, by=by)(t[1:]), torch.tensor(0.8).double())
        assert (posterior_deviation(wild, schedule, by=by, most=0.1)(t) == 0.1).all()


def test_the_limit_comes_from_the_data():
    x0 = torch.tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]], dtype=torch.float64)
    table = noise_power(
        isotropic(2).predictor(get_schedule("linear")), get_schedule("linear"), x0, [0.5], seeds=torch.arange(3)
    )
    assert math.isclose(table.deviation, math.sqrt(8 / 3 / 2))


def test_nothing_is_added_at_level_0_nor_up_to_the_last_level():
    data, schedule = Data(), get_schedule("cosine")
    x, t = data.draw(4), torch.tensor([[0.0], [0.2], [0.2 + 1e-4], [0.9]], dtype=torch.float64)
    prediction = analytic(data.predictor(schedule), table_of(data, schedule), schedule, last=1 / 5)(
        Query(x, t.clamp(min=1e-3))
    )
    assert (prediction.deviation > 0).flatten().tolist() == [False, False, True, True]
    assert posterior_deviation(table_of(data, schedule), schedule)(t)[0] == 0


def test_a_chain_with_the_last_level_told_ends_at_the_predictors_mean():
    data, schedule = Data(), get_schedule("cosine")
    predictor = analytic(data.predictor(schedule), table_of(data, schedule), schedule, last=1 / 4)
    x = torch.zeros(6, 3, dtype=torch.float64)
    told = {"predictor": predictor, "process": Gaussian(schedule), "rng": Rng(range(6))}
    *_, before, end = sample(x, everywhere(x), even_levels(4), improved(), **told)
    torch.testing.assert_close(end.x, data.predictor(schedule)(Query(before.x, before.t)).mean)


def test_each_level_and_example_is_asked_with_its_own_condition_and_seed():
    data, schedule, n = Data(), get_schedule("linear"), 7
    x0, seeds, classes = data.draw(n), torch.arange(n) * 3, torch.arange(n)[:, None]

    def asked(query):
        x_t, t, condition = query.x_t, query.t, query.condition
        mean = data.predictor(schedule)(Query(x_t, t)).mean + condition
        return Normal.point(mean)

    whole = noise_power(asked, schedule, x0, [0.2, 0.6], seeds=seeds, condition=classes)
    pieces = noise_power(asked, schedule, x0, [0.6, 0.2], seeds=seeds, condition=classes, rows=3)
    assert torch.allclose(torch.tensor(whole.powers), torch.tensor(pieces.powers))
    half = torch.stack([torch.tensor(
        noise_power(asked, schedule, x0[k], [0.2, 0.6], seeds=seeds[k], condition=classes[k]).errors
    ) for k in (slice(0, 3), slice(3, 7))])  # fmt: skip
    assert torch.allclose(torch.tensor(whole.errors), (half * torch.tensor([[3.0], [4.0]])).sum(0) / 7)


def test_the_table_is_plain_numbers():
    table = table_of(Data(), get_schedule("flow"))
    assert NoisePower.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    with pytest.raises(ValueError, match="expected deviation, errors, levels, powers"):
        NoisePower.from_dict({"levels": [0.5]})


@pytest.mark.parametrize(
    ("name", "levels"), [("flow", [0.5, 1.0]), ("linear", [0.0]), ("linear", [1.1]), ("linear", [])]
)
def test_levels_that_tell_nothing_are_refused(name, levels):
    x0 = Data().draw(2)
    with pytest.raises(ValueError, match="leave something of the data"):
        noise_power(Data().predictor(get_schedule(name)), get_schedule(name), x0, levels, seeds=torch.arange(2))


def test_an_unknown_estimate_is_refused():
    with pytest.raises(ValueError, match="expected power"):
        analytic(
            Data().predictor(get_schedule("flow")), table_of(Data(), get_schedule("flow")), get_schedule("flow"), by="x"
        )
