"""Laws of predictions that know where values stand."""

from __future__ import annotations

import math

import torch

from textdiff.core.contracts import Query
from textdiff.core.likelihood import bits_per_dimension, nelbo
from textdiff.core.predictions import Bins, Normal
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule
from textdiff.processes.gaussian import Gaussian
from textdiff.shaping.bins import in_bins

BINS = Bins(-1.0, 1.0, 0.25)  # nine values


def fixed(mean: float):
    return lambda query: Normal.point(torch.full_like(query.x_t, mean))


def asked(mean: float, deviation: float) -> Normal:
    predictor = in_bins(fixed(mean), BINS, lambda t: torch.full_like(t, deviation), math.inf)
    return predictor(Query(torch.zeros(2, 3, dtype=torch.float64), torch.full((2, 1), 0.5, dtype=torch.float64)))


def test_between_two_bins_both_are_as_likely():
    found = asked(0.375, 0.01)
    assert torch.allclose(found.mean, torch.tensor(0.375, dtype=torch.float64))
    assert torch.allclose(found.deviation, torch.tensor(0.125, dtype=torch.float64))


def test_near_a_bin_the_bin_is_meant():
    found = asked(0.26, 0.01)
    assert torch.allclose(found.mean, torch.tensor(0.25, dtype=torch.float64)) and found.deviation.max() < 1e-5


def test_where_nothing_is_known_all_bins_are_as_likely():
    found = asked(0.0, 100.0)
    assert torch.allclose(found.deviation, torch.tensor(math.sqrt(5 / 12), dtype=torch.float64), atol=1e-4)


def test_the_mean_stays_between_the_outer_bins():
    assert torch.allclose(asked(3.0, 0.2).mean, torch.tensor(1.0, dtype=torch.float64), atol=1e-2)


def test_the_bound_of_independent_uniform_values_tends_to_their_entropy():
    """Here (1) is the exact posterior: log2 9 bits, where a prediction that knows no bins pays for every halving of the noise."""
    schedule = get_schedule("cosine")
    x0 = BINS.low + BINS.width * Rng(range(60)).integers(torch.full((60, 16), 9)).double()
    process = Gaussian(schedule, bins=BINS, steps=400)

    def plain(query):
        x_t, t = query.x_t, query.t
        return Normal.point(x_t / schedule(t)[0])

    def noise(t):
        alpha, beta = schedule(t)
        return beta / alpha

    def bits(predictor) -> float:
        free = torch.ones(60, 16, dtype=torch.bool)
        nats = nelbo(x0, free, predictor=predictor, process=process, seeds=torch.arange(60), levels=100, rows=6000)
        return bits_per_dimension(nats, x0).mean().item()

    assert math.log2(9) - 0.05 < bits(in_bins(plain, BINS, noise, math.inf)) < math.log2(9) + 0.15
    assert bits(plain) > math.log2(9) + 1


def test_a_wide_prediction_keeps_its_mean():
    for deviation, same in ((0.12, False), (0.13, True)):
        predictor = in_bins(fixed(0.2), BINS, lambda t, deviation=deviation: torch.full_like(t, deviation))
        found = predictor(Query(torch.zeros(2, 3, dtype=torch.float64), torch.full((2, 1), 0.5, dtype=torch.float64)))
        assert torch.allclose(found.mean, torch.tensor(0.2, dtype=torch.float64), atol=1e-9) == same
        assert torch.allclose(found.deviation, torch.tensor(deviation, dtype=torch.float64), atol=1e-9) == same


def test_values_that_no_network_can_name_are_a_bound_away_from_infinity():
    found = asked(0.25, 1e-9)
    assert torch.isfinite(found.last_nll(torch.full((2, 3), 0.25, dtype=torch.float64), found.deviation, BINS)).all()
    assert found.deviation.min() > 0
