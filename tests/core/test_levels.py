"""Laws of levels: counts, and sequences that lead from 1 to 0."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textdiff.core.levels import SCHEDULES, alpha, count, count_levels, even_levels
from textdiff.samplers.corrector import sweep_levels


@given(n=st.integers(1, 200), t=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_the_count_is_the_number_of_ranks_below_the_level(n, t):
    free = torch.ones(1, n, dtype=torch.bool)
    level = torch.full((1, n), t, dtype=torch.float64)
    below = sum((k + 0.5) / n < t for k in range(n))
    if all(abs((k + 0.5) / n - t) > 1e-12 for k in range(n)):  # half-way, rounding may go either way
        assert count(level, free).item() == below


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 28, 56, 199])
def test_whole_counts_survive_the_way_through_levels(n):
    free = torch.ones(n + 1, n, dtype=torch.bool)
    level = (torch.arange(n + 1).double() / n)[:, None].expand(-1, n)
    assert torch.equal(count(level, free), torch.arange(n + 1))


def test_given_positions_do_not_count():
    free = torch.tensor([[True, False, True, False], [False] * 4])
    assert count(free.double(), free).tolist() == [2, 0]


def walk(n: list[int], *arguments) -> list[list[int]]:
    """Counts of each row after every step."""
    size = torch.tensor(n)
    steps = [(level[:, 0] * size).round().long().tolist() for level in count_levels(size, *arguments)]
    return [list(row) for row in zip(*steps, strict=True)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, 14, 20, 100, None])
@pytest.mark.parametrize("n", [1, 2, 20, 56])
def test_counts_fall_to_0_without_a_wasted_step(n, steps, schedule):
    (counts,) = walk([n], steps, schedule)
    assert counts[-1] == 0
    assert all(a > b for a, b in zip([n, *counts], counts, strict=False))
    assert len(counts) <= (steps or n)
    if steps is None or (schedule == "linear" and steps <= n):
        assert len(counts) == (steps or n)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_row_walks_the_same_levels_beside_any_others(schedule):
    together = walk([5, 0, 9, 1], 4, schedule)
    for row, n in zip(together, [5, 0, 9, 1], strict=True):
        own = walk([n], 4, schedule)[0] if n else []
        assert row == own + [0] * (len(row) - len(own))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_number_of_steps_beyond_a_few_a_position_writes_one_position_at_a_time(schedule):
    for n in range(1, 40):
        assert walk([n], 4 * n, schedule) == walk([n], 4 * n + 1, schedule) == walk([n], 10**18, schedule) == walk([n])
        assert {round(n * SCHEDULES[schedule](j / (4 * n))) for j in range(1, 4 * n)} >= {*range(1, n)}


def test_nothing_to_do_takes_no_step():
    assert walk([0, 0]) == []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_1_to_0(schedule):
    values = [SCHEDULES[schedule](u / 50) for u in range(51)]
    assert values[0] == 1 and math.isclose(values[-1], 0, abs_tol=1e-12)
    assert all(a > b for a, b in itertools.pairwise(values))


def test_even_levels_end_at_0():
    assert list(even_levels(4)) == [0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("steps", [0, -1])
def test_a_walk_without_steps_is_refused(steps):
    with pytest.raises(ValueError, match="at least 1"):
        list(count_levels(torch.tensor([3]), steps))
    with pytest.raises(ValueError, match="at least 1"):
        even_levels(steps)


def test_survival_is_linear_in_the_level():
    assert alpha(torch.tensor([0.0, 0.25, 1.0])).tolist() == [1.0, 0.75, 0.0]


def test_sweeps_go_up_by_one_position_and_down_again():
    ups_and_downs = list(sweep_levels(torch.tensor([4, 0, 10]), 2))
    assert [v[:, 0].tolist() for v in ups_and_downs] == [[0.25, 0.0, 0.1], [0.0] * 3] * 2


@pytest.mark.parametrize(
    ("schedule", "quarters"),
    [("linear", [0.75, 0.5, 0.25]), ("cosine", [0.9239, 0.7071, 0.3827]), ("quadratic", [0.5625, 0.25, 0.0625])],
)
def test_schedules_are_their_formulas(schedule, quarters):
    """1 − u, cos(πu/2) and (1 − u)² at u = 1/4, 1/2, 3/4."""
    assert [SCHEDULES[schedule](u) for u in (0.25, 0.5, 0.75)] == pytest.approx(quarters, abs=1e-4)
