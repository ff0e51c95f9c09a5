"""The mask process in a fixed order: what is masked, what a step uncovers, and what it is charged for."""

from __future__ import annotations

import pytest
import torch
from tables import Table

from textdiff.core.contracts import Query
from textdiff.core.rng import Rng
from textdiff.processes.ascending import Ascending

MASK = 9
GIVEN = torch.tensor([[False, True, False, False, False]])  # the second position


def at(process, m, free):
    """x_t with m of the free positions masked; x0 holds 0, 1, 2, …."""
    x0 = torch.arange(free.shape[1])[None]
    t = torch.where(free, m / free.sum(-1, keepdim=True), 0.0).double()
    return process.corrupt(x0, t, process.noise(x0, t, rng=Rng([0]))), t


@pytest.mark.parametrize(
    ("written", "masked"),
    [
        (None, [[], [4], [3, 4], [2, 3, 4], [0, 2, 3, 4]]),
        (torch.tensor([4, 3, 2, 1, 0]), [[], [0], [0, 2], [0, 2, 3], [0, 2, 3, 4]]),
        (torch.tensor([1, 4, 0, 3, 2]), [[], [3], [3, 4], [0, 3, 4], [0, 2, 3, 4]]),
    ],
    ids=["left to right", "right to left", "another"],
)
def test_what_is_written_last_is_masked_first_and_given_text_never(written, masked):
    process = Ascending(MASK, written)
    for m, expected in enumerate(masked):
        x_t, _ = at(process, m, ~GIVEN)
        assert (x_t[0] == MASK).nonzero()[:, 0].tolist() == expected


def test_a_step_is_charged_for_what_it_uncovers_alone():
    process, table = Ascending(MASK), Table(9)
    x0 = torch.arange(5)[None]
    x_t, t = at(process, 3, ~GIVEN)
    _, s = at(process, 1, ~GIVEN)
    prediction = table(Query(x_t, t))
    nll = prediction.nll(x0)
    torch.testing.assert_close(process.bound(prediction, x0, x_t, t, s), nll[:, [2, 3]].sum(-1))


def test_a_predictor_of_whole_texts_is_asked_once():
    n = torch.tensor([0, 1, 7])
    assert Ascending(MASK).bound_steps(n).tolist() == [0, 1, 7]
    assert Ascending(MASK, whole=True).bound_steps(n).tolist() == [0, 1, 1]
