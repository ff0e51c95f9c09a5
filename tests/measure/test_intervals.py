"""Intervals hold what they promise: closed forms, and how often they cover the truth."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from textdiff.core.rng import Rng
from textdiff.measure import intervals
from textdiff.measure.intervals import GROUPS, Interval

stats = pytest.importorskip("scipy.stats")


def test_a_share_has_a_width_at_the_ends():
    assert intervals.share(0, 100) == pytest.approx((0, 0, 0.0370), abs=1e-4)
    assert intervals.share(1, 100) == pytest.approx((1, 0.9630, 1), abs=1e-4)
    assert intervals.share(0.5, 100) == pytest.approx((0.5, 0.4038, 0.5962), abs=1e-4)


def test_a_mean_has_196_standard_errors():
    values = [1.0, 3.0, 8.0]
    found, error = intervals.mean(values), 1.959964 * np.std(values, ddof=1) / math.sqrt(3)
    assert found == pytest.approx((4, 4 - error, 4 + error))


@pytest.mark.parametrize("groups", range(2, GROUPS + 1))
def test_the_jackknife_of_a_mean_is_students_interval(groups):
    x = Rng([groups]).normal(groups)[0].numpy()
    found = intervals.jackknife(x.mean(), [np.delete(x, k).mean() for k in range(groups)])
    low, high = stats.t(groups - 1, x.mean(), stats.sem(x)).interval(0.95)
    assert found == pytest.approx((x.mean(), low, high), abs=1e-3)


def test_too_few_values_have_no_interval_and_go_through_json():
    for one in (intervals.mean([2.0]), intervals.jackknife(2.0, []), intervals.jackknife(2.0, [1.0])):
        assert one == (2.0, None, None) and intervals.written(one) == "2.000"
        assert one.about(3.0) == (3.0, None, None)
        assert json.loads(json.dumps(one._asdict())) == {"value": 2.0, "low": None, "high": None}
    assert intervals.groups_of(3, 100) == 1 and intervals.groups_of(10, 100) == 5 and intervals.groups_of(100) == GROUPS


def test_an_interval_is_moved_as_a_whole_and_written_with_its_ends():
    one = Interval(0.5, 0.25, 1.0)
    assert one.about(1.5) == (1.5, 1.25, 2.0)
    assert intervals.written(one, 2) == "0.50 [0.25, 1.00]"
