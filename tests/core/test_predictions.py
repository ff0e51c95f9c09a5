"""Laws of predictions: exact counts, lazy reading, and numerics at the edges."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import IDS, MASK, Table, assert_same_law, normalised, product_law, texts

from textdiff.core.contracts import Query
from textdiff.core.predictions import (
    Categorical,
    CountConditioned,
    differing_table,
    draw_differing,
    draw_other,
    inclusion,
    log1mexp,
    positions_of,
)
from textdiff.core.rng import PIECE, STRIP, Rng
from textdiff.verify.enumeration import enumerate_draws

INF = math.inf


def code(x: torch.Tensor, base: int) -> torch.Tensor:
    return (x * base ** torch.arange(x.shape[1])).sum(-1)


def law_of(draw, length: int, base: int) -> dict[tuple[int, ...], float]:
    """text -> probability of draw(rng) -> (1, L), every outcome walked through."""
    _, outcome, weight = enumerate_draws(lambda items, rng: code(draw(len(items), rng), base), torch.zeros(1), length)
    law: dict[tuple[int, ...], float] = {}
    for o, w in zip(outcome.tolist(), weight.tolist(), strict=True):
        x = tuple(o // base**i % base for i in range(length))
        law[x] = law.get(x, 0.0) + w
    return law


def subsets_law(stay: list[float], low: int, high: int) -> dict[tuple[int, ...], float]:
    """Independent differences conditioned on their number, by summing over all subsets."""
    law = {}
    for d in itertools.product((0, 1), repeat=len(stay)):
        if low <= sum(d) <= high:
            law[d] = math.prod(1 - math.exp(s) if one else math.exp(s) for one, s in zip(d, stay, strict=True))
    return normalised({d: p for d, p in law.items() if p > 0})


STAYS = [
    [-0.1, -0.7, -2.0, -0.01],
    [0.0, -1.0, -INF, -0.3],  # sure to stay, sure to differ
    [-1e-9, -1e-9, -30.0, -1e-12],
]


@pytest.mark.parametrize("stay", STAYS)
@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 2), (3, 3), (1, 3), (0, 2)])
def test_differing_positions_have_the_conditional_bernoulli_law(stay, low, high):
    def draw(rows, rng):
        bounds = (torch.full((rows,), b) for b in (low, high))
        return draw_differing(torch.tensor([stay], dtype=torch.float64).expand(rows, -1), *bounds, rng=rng).long()

    assert_same_law(law_of(draw, len(stay), 2), subsets_law(stay, low, high), 1e-6 if min(stay) == -30 else 1e-12)


class Reluctant(Rng):
    """Takes only what is certain."""

    def bernoulli(self, p):
        return p >= 1


def test_rounding_never_loses_the_last_position_that_must_differ():
    """With probabilities of differing that round to just under 1, the positions that are left are taken all the same."""
    stay = Rng(range(500)).uniform(9).log() * 5
    count = torch.arange(500) % 9 + 1
    differing = draw_differing(stay, count, count, rng=Reluctant(range(500)))
    assert torch.equal(differing.sum(-1), count)


@pytest.mark.parametrize("stay", STAYS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_inclusion_agrees_with_brute_force_and_sums_to_the_count(stay, count):
    found = inclusion(torch.tensor([stay], dtype=torch.float64), torch.tensor([count])).exp()[0]
    law = subsets_law(stay, count, count)
    by_hand = torch.tensor([sum(p for d, p in law.items() if d[i]) for i in range(len(stay))])
    assert torch.allclose(found, by_hand.double(), atol=1e-6)
    assert abs(found.sum().item() - count) < 1e-9


def test_inclusion_in_a_count_that_cannot_be_is_nothing_rather_than_nan():
    stay = torch.tensor([[0.0, 0.0, -1.0], [-INF, -INF, -INF]])
    assert (inclusion(stay, torch.tensor([2, 1])) == -INF).all()


@given(st.lists(st.floats(-40, -1e-6), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_number_of_differences_is_a_probability_distribution(stay):
    pmf = differing_table(torch.tensor([stay]), len(stay))[-1, 0].exp()
    assert abs(pmf.sum().item() - 1) < 1e-9
    mean = (pmf * torch.arange(len(stay) + 1)).sum().item()
    assert abs(mean - sum(-math.expm1(s) for s in torch.tensor(stay).double().tolist())) < 1e-6


@pytest.mark.parametrize("a", [-1e-30, -1e-12, -0.5, -0.693, -0.694, -5.0, -50.0, -700.0])
def test_log1mexp_keeps_its_precision_everywhere(a):
    reference = math.log(-math.expm1(a)) if a > -1 else math.log1p(-math.exp(a))
    assert math.isclose(log1mexp(torch.tensor(a, dtype=torch.float64)).item(), reference, rel_tol=1e-14)


def test_log1mexp_at_its_ends():
    assert log1mexp(torch.tensor([0.0, -INF], dtype=torch.float64)).tolist() == [-INF, 0.0]


def categorical(rows: int = 3, length: int = 5, seed: int = 0, scale: float = 2.0) -> tuple[Categorical, torch.Tensor]:
    x = texts(rows, length, seed)
    return Table(length, scale, seed)(Query(x, torch.ones(rows, length))), x


@pytest.mark.parametrize("low", [0, 1, 3, 5])
def test_a_count_conditioned_draft_differs_in_exactly_that_many_places(low):
    prediction, x = categorical(400, 5)
    m = torch.full((400,), low)
    draft = CountConditioned(prediction, x, m, m).draw(rng=Rng(range(400)))
    assert ((draft != x).sum(-1) == low).all()


def test_a_count_conditioned_draft_has_the_law_of_independent_draws_conditioned_on_their_count():
    logits = torch.tensor([[1.0, 0.0, -INF], [0.0, 2.0, -1.0], [3.0, 0.0, 0.5]])
    x = torch.tensor([0, 1, 0])

    def draw(rows, rng):
        base = Categorical.from_logits(logits.expand(rows, -1, -1), x.expand(rows, -1))
        return CountConditioned(base, x.expand(rows, -1), torch.full((rows,), 1), torch.full((rows,), 2)).draw(rng=rng)

    law = {
        y: p
        for y, p in product_law(logits).items()
        if 1 <= sum(a != b for a, b in zip(y, x.tolist(), strict=True)) <= 2
    }
    assert_same_law(law_of(draw, 3, 3), normalised(law), 1e-7)


@pytest.mark.parametrize(("asked", "nearest"), [(0, 1), (1, 1), (3, 3), (4, 3), (5, 3)])
def test_where_a_count_cannot_be_the_nearest_one_is_taken(asked, nearest):
    logits = torch.zeros(5, IDS)
    x = torch.tensor([2, 3, 5, 8, 9])
    logits[0] = torch.where(torch.arange(IDS) == 2, 0.0, -INF)  # sure to stay
    logits[1] = torch.where(torch.arange(IDS) == 3, 0.0, -INF)
    logits[2, 5] = -INF  # sure to differ
    x = x.expand(60, -1)
    m = torch.full((60,), asked)
    base = Categorical.from_logits(logits.expand(60, -1, -1), x)
    draft = CountConditioned(base, x, m, m).draw(rng=Rng(range(60)))
    assert ((draft != x).sum(-1) == nearest).all()
    assert (draft[:, :2] == x[:, :2]).all()
    assert (draft[:, 2] != 5).all()


def test_pinned_differences_count_and_stand():
    prediction, x = categorical(50, 5)
    where = torch.zeros_like(x, dtype=torch.bool)
    where[:, 1:3] = True
    pinned = torch.where(x == 2, 3, 2)  # differs from x
    m = torch.full((50,), 3)
    draft = CountConditioned(prediction, x, m, m).pin(pinned, where).draw(rng=Rng(range(50)))
    assert torch.equal(draft[where], pinned[where])
    assert ((draft != x).sum(-1) == 3).all()


def test_draw_other_never_draws_what_stands_there():
    prediction, x = categorical(200, 5)
    where = torch.rand(200, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    drawn = draw_other(prediction, x, where, rng=Rng(range(200)))
    assert torch.equal(drawn != x, where)


def raised(logits, rows, positions):
    return logits + (rows[:, None] + 2 * positions[:, None]) * torch.arange(IDS) / 10


@pytest.mark.parametrize("first", ["select", "pin"])
def test_map_commutes_with_select_and_pin(first):
    prediction, x = categorical()
    where = torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.5

    def cut(p):
        return p.select(where) if first == "select" else p.pin(x, ~where)

    one, other = cut(prediction.map(raised)), cut(prediction).map(raised)
    assert torch.equal(one.logits(), other.logits())
    assert torch.equal(one.draw(rng=Rng([1, 2, 3])), other.draw(rng=Rng([1, 2, 3])))


def test_pins_commute_where_they_do_not_overlap():
    prediction, x = categorical()
    a, b = torch.zeros(2, 3, 5, dtype=torch.bool)
    a[:, 0], b[:, 3:] = True, True
    y = torch.full_like(x, MASK)
    one, other = prediction.pin(x, a).pin(y, b), prediction.pin(y, b).pin(x, a)
    assert torch.equal(one.draw(rng=Rng([1, 2, 3])), other.draw(rng=Rng([1, 2, 3])))
    assert torch.equal(one.known, other.known)


def test_a_position_draws_the_same_token_whatever_else_is_asked():
    prediction, _ = categorical(4, 5)
    where = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    whole = prediction.draw(rng=Rng(range(4)))
    part = prediction.select(where).draw(rng=Rng(range(4)))
    assert torch.equal(whole[where], part[where])


def test_only_asked_rows_are_read_and_in_pieces():
    table = Table(40)
    x = texts(30, 40)
    prediction = table(Query(x, torch.ones(30, 40)))
    assert table.read == []  # nothing before something is needed
    where = torch.zeros_like(x, dtype=torch.bool)
    where[3, 7] = where[20, 1] = True
    prediction.select(where).draw(rng=Rng(range(30)))
    prediction.pin(x, ~where).mode()
    assert table.read == [2, 2]
    table.read.clear()
    with torch.no_grad():
        prediction.log_prob(x)
        prediction.draw(rng=Rng(range(30)))
        prediction.statistic(lambda log_q, *_: log_q.amax(-1))
    assert sum(table.read) == 3 * 30 * 40
    assert max(table.read) <= STRIP
    table.read.clear()
    prediction.log_prob(x)  # a gradient would be summed up once for each piece
    assert max(table.read) == PIECE


def test_log_probabilities_are_those_of_softmax_and_known_positions_are_certain():
    prediction, x = categorical()
    where = torch.zeros_like(x, dtype=torch.bool)
    where[:, 2] = True
    q = prediction.logits().view(3, 5, IDS).double().log_softmax(-1)
    y = texts(3, 5, seed=9)
    first, second = prediction.log_prob(x, y)
    assert torch.allclose(first, q.gather(-1, x[..., None])[..., 0], atol=1e-6)
    assert torch.allclose(second, q.gather(-1, y[..., None])[..., 0], atol=1e-6)
    (pinned,) = prediction.pin(x, where).log_prob(y)
    assert torch.equal(pinned[where], torch.where((x == y)[where], 0.0, -INF).double())
    assert torch.equal(-pinned, prediction.pin(x, where).nll(y))


def test_the_chance_to_change_keeps_its_precision_where_the_prediction_is_nearly_sure():
    logits = torch.zeros(1, 1, 4)
    logits[0, 0, 0] = 25.0  # 1 − q = 4·10⁻¹¹ is lost in float32
    (stay,) = Categorical.from_logits(logits, torch.zeros(1, 1, dtype=torch.long)).log_prob(torch.zeros(1, 1).long())
    d = log1mexp(stay).exp().item()
    assert math.isclose(d, 3 * math.exp(-25) / (1 + 3 * math.exp(-25)), rel_tol=1e-5)


def test_entropy_of_a_sure_prediction_is_0_and_not_nan():
    logits = torch.full((1, 1, 4), -INF)
    logits[..., 2] = 3.0
    prediction = Categorical.from_logits(logits, torch.zeros(1, 1, dtype=torch.long))
    assert prediction.statistic(lambda log_q, *_: torch.special.entr(log_q.exp()).sum(-1)).item() == 0


def test_nothing_asked_is_no_trouble():
    x = texts(2, 3)
    prediction = Table(3)(Query(x, torch.ones(2, 3), at=positions_of(torch.zeros(2, 3, dtype=torch.bool))))
    assert torch.equal(prediction.draw(rng=Rng([0, 1])), x)
    assert torch.equal(prediction.mode(), x)
    assert (prediction.nll(x) == 0).all()
    assert prediction.logits().shape == (0, IDS)


def test_the_mode_is_the_likeliest_token():
    prediction, _ = categorical()
    assert torch.equal(prediction.mode(), prediction.logits().view(3, 5, IDS).argmax(-1))
