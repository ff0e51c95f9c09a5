"""Laws of the probability-flow ODE, of inversion and of interpolation, on data where the density is known."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch
from normals import BLOBS, MEAN, Data, everywhere, isotropic

from textdiff.core.contracts import Query
from textdiff.core.levels import even_levels
from textdiff.core.likelihood import bits_per_dimension
from textdiff.core.loop import sample
from textdiff.core.predictions import Bins
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers.ancestral import improved
from textdiff.samplers.ode import (
    _turn,
    angle,
    bin_nats,
    dequantised,
    interpolate,
    invert,
    level_at,
    log_likelihood,
    score,
    velocity,
)
from textdiff.samplers.second_order import heun

every_schedule = pytest.mark.parametrize("name", ["linear", "cosine", "sqrt", "flow"])
EXACTLY = {"probes": None, "first": 1e-5, "rtol": 1e-6, "atol": 1e-6}


def likelihood(data, schedule, x, **how):
    return log_likelihood(x, data.predictor(schedule), schedule, seeds=torch.arange(len(x)), **how)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_the_likelihood_of_normal_data_is_the_density(name):
    data = Data(0 * MEAN) if name == "linear" else Data()  # at its level 1 a mean is still seen, .006 of it
    x = data.draw(8)
    found = likelihood(data, get_schedule(name), x, **EXACTLY)
    torch.testing.assert_close(found, data.log_density(x), rtol=0, atol=1e-3)


def test_the_likelihood_of_a_mixture_is_the_density():
    x = torch.cat([BLOBS.means, Rng(range(3)).normal(2)])
    found = likelihood(BLOBS, get_schedule("flow"), x, **{**EXACTLY, "first": 1e-4})
    torch.testing.assert_close(found, BLOBS.log_density(x), rtol=0, atol=2e-3)


def half(t):
    """A schedule that leaves half of the data, and at radius 1.6."""
    return 1 - t.double() / 2, 1.5 * t.double()


@pytest.mark.parametrize("schedule", [half, get_schedule("linear")])
def test_what_is_integrated_to_is_the_prior_that_ships(schedule):
    """Where level 1 leaves something of the data, the law of samples is not that of the data, and known."""
    data, x = Data(), Data().draw(6)
    start = Gaussian(schedule).prior(torch.zeros(4000, 3).double(), torch.ones(4000, 1).bool(), rng=Rng(range(4000)))
    radius = torch.hypot(*schedule(torch.tensor(1.0, dtype=torch.float64))).item()
    assert abs(start.std().item() / radius - 1) < 5 / math.sqrt(2 * start.numel())
    zero, eye = torch.zeros(3).double(), torch.eye(3).double()
    centre = data.carried(zero, schedule, 1.0, 0.0)  # the ODE is affine: where it takes N(0, radius²)
    axes = torch.stack([data.carried(radius * e, schedule, 1.0, 0.0) - centre for e in eye], 1)
    found = likelihood(data, schedule, x, **EXACTLY)
    torch.testing.assert_close(found, Data(centre, axes).log_density(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("normal", [False, True])
def test_hutchinsons_estimate_is_unbiased_and_more_probes_narrow_it(normal):
    data, schedule, n = Data(), get_schedule("flow"), 300
    x = data.draw(1).expand(n, -1)
    exact = likelihood(data, schedule, x[:1], probes=None, first=1e-2)
    how = {"normal": normal, "first": 1e-2, "rows": n, "rtol": 1e-4, "atol": 1e-4}
    one, four = (likelihood(data, schedule, x, probes=k, **how) for k in (1, 4))
    for found in (one, four):
        assert abs(found.mean() - exact) < 5 * found.std() / math.sqrt(n) + 1e-3
    assert 0.35 < four.std() / one.std() < 0.65


def test_signs_are_exact_where_coordinates_do_not_mix_and_normal_probes_are_not():
    data, schedule = isotropic(4, 0.5), get_schedule("cosine")
    x = data.draw(5)
    assert torch.allclose(likelihood(data, schedule, x), likelihood(data, schedule, x, probes=None), atol=1e-3)
    assert not torch.allclose(likelihood(data, schedule, x, normal=True), likelihood(data, schedule, x), atol=0.1)


def test_an_example_has_its_own_probes_and_condition_and_nearly_its_own_value_in_any_company():
    data, schedule = Data(), get_schedule("flow")
    x, seeds, shift = data.draw(5), torch.arange(5) * 11, torch.arange(5)[:, None].double()

    def moved(query):
        x_t, t, condition = query.x_t, query.t, query.condition
        alpha, _ = schedule(t)
        prediction = data.predictor(schedule)(Query(x_t - alpha * condition, t))
        return type(prediction).point(prediction.mean + condition)

    def value(k, rows):
        return log_likelihood(x[k], moved, schedule, seeds=seeds[k], condition=shift[k], first=1e-2, rows=rows)

    together = value(slice(0, 5), 64)
    assert torch.allclose(value(slice(0, 5), 2), together, atol=2e-3)
    assert torch.allclose(value(slice(3, 4), 1), together[3:4], atol=2e-3)
    other = log_likelihood(x, moved, schedule, seeds=seeds + 1, condition=shift, first=1e-2)
    assert not torch.allclose(other, together, atol=0.1)


def test_images_in_float32_under_inference_mode():
    data, schedule = isotropic(12, 0.5), get_schedule("cosine")
    x = data.draw(3).float().view(3, 3, 2, 2)

    def flat(query):
        x_t, t = query.x_t, query.t
        prediction = data.predictor(schedule)(Query(x_t.flatten(1).double(), t.flatten(1)))
        return type(prediction).point(prediction.mean.float().view_as(x_t))

    with torch.inference_mode():
        found = log_likelihood(x, flat, schedule, seeds=torch.arange(3), first=1e-3)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, data.log_density(x.flatten(1).double()), rtol=0, atol=0.05)


def test_the_score_is_that_of_the_noisy_law():
    data, schedule, x = Data(), get_schedule("cosine"), Data().draw(5)
    t = torch.tensor([[0.1], [0.3], [0.5], [0.8], [1.0]], dtype=torch.float64)
    found = score(data.predictor(schedule)(Query(x, t)), x, t, schedule)
    for row, x_t, level in zip(found, x, t, strict=True):
        alpha, beta = schedule(level)
        law = alpha**2 * data.covariance + beta**2 * torch.eye(3)
        torch.testing.assert_close(row, -torch.linalg.solve(law, x_t - alpha * data.mean), rtol=1e-7, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("level", [0.1003, 0.5003, 0.9003])
def test_the_velocity_is_that_of_the_known_path_by_the_clock_of_levels_and_by_that_of_angles(name, level):
    data, schedule, h = Data(), get_schedule(name), 1e-5
    x = data.draw(2)
    after, before = (data.carried(x, schedule, level, level + d) for d in (h, -h))
    t = torch.full((2, 1), level, dtype=torch.float64)
    torch.testing.assert_close(
        velocity(data.predictor(schedule)(Query(x, t)), x, t, schedule),
        (after - before) / (2 * h),
        rtol=1e-4,
        atol=1e-4,
    )
    radius = [
        math.hypot(*(r.item() for r in schedule(torch.tensor(level + d, dtype=torch.float64)))) for d in (-h, 0, h)
    ]
    turned = (after / radius[2] - before / radius[0]) / (angle(schedule, level + h) - angle(schedule, level - h))
    dz, _ = _turn(data.predictor(schedule), schedule, angle(schedule, level), x / radius[1], None, x[None])
    torch.testing.assert_close(dz, turned, rtol=1e-4, atol=1e-4)


@every_schedule
def test_angles_and_levels_are_told_from_each_other(name):
    schedule = get_schedule(name)
    for level in (1e-4, 0.03, 0.5, 0.77, 1.0):
        assert math.isclose(level_at(schedule, angle(schedule, level)), level, rel_tol=1e-6)


def test_without_scipy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with pytest.raises(ValueError, match=r"textdiff\[ode\]"):
        likelihood(Data(), get_schedule("flow"), Data().draw(1))


def test_no_probe_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        likelihood(Data(), get_schedule("flow"), Data().draw(1), probes=0)


# -- bins -----------------------------------------------------------------------------------------------------------------


def test_dequantised_data_fill_their_bins_and_bound_their_probability():
    bins, n = Bins(-1.0, 1.0, 0.25), 4000
    x0 = torch.full((n, 2), 0.25, dtype=torch.float64)
    x = dequantised(x0, bins, seeds=torch.arange(n))
    assert ((x - x0).abs() <= 0.125).all()
    assert abs((x - x0).mean()) < 5 * 0.25 / math.sqrt(12 * 2 * n)
    data = isotropic(2, 0.4)
    edge = torch.tensor([0.125, 0.375], dtype=torch.float64) / 0.4
    exact = -2 * (torch.special.ndtr(edge[1]) - torch.special.ndtr(edge[0])).log()
    nats = bin_nats(data.log_density(x), 2, bins)
    assert exact < nats.mean() < exact + 0.05  # Jensen's gap, small where bins are narrow
    torch.testing.assert_close(bits_per_dimension(nats, x0), nats / (2 * math.log(2)))


def test_bits_per_dimension_count_the_free_values_alone():
    x0, free = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    free[0, 0, 0], free[1] = True, True
    bits = bits_per_dimension(torch.tensor([12.0, 48.0]) * math.log(2), x0, free)
    torch.testing.assert_close(bits, torch.tensor([1.0, 1.0]))


# -- inversion and interpolation ------------------------------------------------------------------------------------------


def rising(steps: int) -> list[float]:
    return [j / steps for j in range(1, steps + 1)]


def there_and_back(data, steps, step, schedule, x):
    process, predictor = Gaussian(schedule), data.predictor(schedule)
    x_1 = invert(x, rising(steps), predictor=predictor, process=process, step=step, first=1e-5)
    told = {"predictor": predictor, "process": process, "rng": Rng(range(len(x)))}
    *_, state = sample(x, everywhere(x), even_levels(steps), step, start=x_1, **told)
    return x_1, state.x


@pytest.mark.parametrize("name", ["cosine", "flow"])
@pytest.mark.parametrize(("step", "order"), [(improved(), 1), (heun(), 2)])
def test_inverted_data_come_back_the_better_the_more_steps(name, step, order):
    data, schedule, x = Data(), get_schedule(name), Data().draw(6)
    errors, ends = [], []
    for steps in (20, 40, 80):
        x_1, back = there_and_back(data, steps, step, schedule, x)
        errors.append((back - x).abs().max().item())
        ends.append((x_1 - data.carried(x, schedule, 0.0, 1.0)).abs().max().item())
    for error in (errors, ends):
        assert all(a / b > 2**order * 0.68 for a, b in itertools.pairwise(error)), error
    assert errors[-1] < (0.2 if order == 1 else 0.01)


def test_inversion_draws_nothing_and_asks_with_the_condition():
    told = []

    def spy(query):
        x_t, t, condition = query.x_t, query.t, query.condition
        told.append(condition)
        assert (t > 0).all()  # no network was trained at level 0
        return Data().predictor(get_schedule("flow"))(Query(x_t, t))

    x, process = Data().draw(3), Gaussian(get_schedule("flow"))
    one, two = (
        invert(x[k], rising(5), predictor=spy, process=process, condition="seven") for k in (slice(0, 3), slice(2, 3))
    )
    assert torch.equal(one[2:], two) and set(told) == {"seven"} and len(told) == 10


def test_between_two_points_the_way_is_the_great_circle():
    a, b = Rng([1, 2]).normal(3, 4, 4), Rng([3, 4]).normal(3, 4, 4)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None, None]
    weights = torch.linspace(0, 1, 5)
    way = interpolate(a, b, weights)
    assert way.shape == (5, 2, 3, 4, 4)
    torch.testing.assert_close(way[0], a)
    torch.testing.assert_close(way[-1], b)
    torch.testing.assert_close(way.flatten(2).norm(dim=2), a.flatten(1).norm(dim=1).expand(5, 2))
    steps = (way[1:] - way[:-1]).flatten(2).norm(dim=2)
    torch.testing.assert_close(steps, steps[:1].expand(4, 2))  # even
    torch.testing.assert_close(interpolate(a, a, weights), a.expand(5, *a.shape))
    half = interpolate(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0.5]))
    torch.testing.assert_close(half, torch.full((1, 1, 2), math.sqrt(2)))


def test_what_lies_between_two_inverted_examples_is_data_again():
    schedule = get_schedule("flow")
    process, predictor = Gaussian(schedule), BLOBS.predictor(schedule)
    ends = invert(BLOBS.means[:2], rising(40), predictor=predictor, process=process, step=heun())
    between = interpolate(ends[:1], ends[1:], torch.tensor([0.0, 1.0]))[:, 0]
    told = {"predictor": predictor, "process": process, "rng": Rng([0, 1])}
    *_, state = sample(between, everywhere(between), even_levels(40), heun(), start=between, **told)
    assert (state.x - BLOBS.means[:2]).abs().max() < 0.05
