"""Laws of the generator: known answers, rows that are streams of their own, and draws that keep rare tokens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from textdiff.core.rng import Rng, example_seed, inverse_cdf, order_to_ranks, philox, unit, unnormalised

ALL_ONES = 0xFFFFFFFF


def words(*values: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([v]) for v in values)


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (ALL_ONES, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_published_answers(word, answer):
    result = philox(words(word, word, word, word), words(word, word))
    assert tuple(int(w) for w in result) == answer


def test_philox_gives_arrays_the_words_that_it_gives_tensors():
    generator = torch.Generator().manual_seed(0)
    counter = [torch.randint(2**32, shape, generator=generator) for shape in ((3, 5), (1, 5), (3, 1), (3, 1))]
    key = [torch.randint(2**32, (3, 1), generator=generator) for _ in range(2)]
    of_arrays = philox([part.numpy() for part in counter], [part.numpy() for part in key])
    assert [word.tolist() for word in philox(counter, key)] == [word.tolist() for word in of_arrays]


def test_uniform_is_never_0_or_1_even_at_the_extreme_bits():
    zeros, ones = torch.tensor([0]), torch.tensor([ALL_ONES])
    assert 0 < unit(zeros, zeros).item() < unit(ones, ones).item() < 1
    assert unit(zeros, zeros).item() == 1 - unit(ones, ones).item() == 2.0**-53


def test_uniform_has_the_moments_of_the_uniform_law():
    u = Rng(range(200)).uniform(1000).flatten()
    n = len(u)
    assert abs(u.mean().item() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.square().mean().item() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
    cells = torch.bincount((u * 100).long(), minlength=100).double()
    assert_frequencies(cells, torch.full((100,), 0.01))


def test_normal_has_the_moments_of_the_normal_law():
    z = Rng(range(100)).normal(1000).flatten()
    n = len(z)
    assert abs(z.mean().item()) < 5 / math.sqrt(n)
    assert abs(z.var().item() - 1) < 5 * math.sqrt(2 / n)


def draws(rng: Rng) -> list[torch.Tensor]:
    """Something of every kind, in an order that crosses the end of the block of scalars."""
    rows = len(rng.keys)
    free = torch.tensor([True, True, False, True, True]).expand(rows, 5)
    logits = torch.linspace(-3, 3, 70).expand(rows, 70)
    at = free.nonzero(as_tuple=True)
    here = rng.categorical(logits[at[0]], at=at)
    return [
        rng.uniform(3, 2),
        rng.normal(4),
        rng.bernoulli(torch.full((rows,), 0.5)),
        rng.bernoulli(torch.full((rows, 5), 0.5)),
        rng.integers(torch.full((rows, 5), 7)),
        rng.ranks(free),
        rng.ranks(free, first=free.roll(1, 1)),
        rng.subset(free, torch.full((rows,), 2)),
        rng.successive(lambda mask: torch.zeros(rows, 5), free, torch.full((rows,), 2)),
        here.view(rows, 4),
        *(rng.categorical(logits) for _ in range(70)),
    ]


@pytest.mark.parametrize("index", [[0], [4], [1, 3], [3, 1, 0], [0, 1, 2, 3, 4, 5, 6]])
def test_a_row_draws_the_same_whichever_rows_stand_beside_it(index):
    seeds = [5, 2**40 + 1, 17, 0, -3, 99, 2**62]
    together = draws(Rng(seeds))
    alone = draws(Rng([seeds[i] for i in index]))
    subset = draws(Rng(seeds).rows(torch.tensor(index)))
    for all_rows, own, part in zip(together, alone, subset, strict=True):
        assert torch.equal(all_rows[index], own)
        assert torch.equal(own, part)


def test_rows_that_leave_go_on_at_the_same_point():
    whole, left = Rng([1, 2, 3], stream=torch.tensor([0, 5, 0])), torch.tensor([2, 1])
    whole.advance(torch.tensor([True, False, True]))
    draws(whole)
    part = whole.rows(left)
    for a, b in zip(draws(whole), draws(part), strict=True):
        assert torch.equal(a[left], b)


def test_steps_that_only_neighbours_take_do_not_shift_a_row():
    yes, no = torch.tensor([True, True]), torch.tensor([True, False])
    together, alone = Rng([1, 2]), Rng([2])
    together.advance(yes), alone.advance(yes[:1])
    together.uniform(3), together.advance(no)  # row 1 did nothing here
    together.uniform(2), alone.uniform(2)
    together.advance(yes), alone.advance(yes[:1])
    assert torch.equal(together.uniform(4)[1:], alone.uniform(4))


def test_flat_pairs_see_what_the_full_rows_hold():
    rows, positions = torch.tensor([0, 0, 2]), torch.tensor([1, 4, 3])
    assert torch.equal(Rng([7, 8, 9]).uniform_at(rows, positions), Rng([7, 8, 9]).uniform(5)[rows, positions])


def test_seeds_streams_turns_and_draws_all_differ():
    base = Rng([1]).uniform(50)
    later, turned = Rng([1]), Rng([1])
    later.uniform(50)
    turned.advance(torch.tensor([True]))
    for other in (Rng([2]), Rng([1 + 2**32]), Rng([1], stream=1), later, turned):
        assert not torch.isin(base, other.uniform(50)).any()


def test_example_seeds_depend_on_every_part_and_fit_a_key():
    seen = [example_seed(*parts) for parts in itertools.product(range(4), range(6), range(8))]
    assert len(set(seen)) == len(seen)
    assert all(0 <= s < 2**63 for s in seen)
    assert example_seed(3, 1, 2) != example_seed(3, 2, 1)


def assert_frequencies(counts: torch.Tensor, p: torch.Tensor) -> None:
    """Pearson's statistic within five standard deviations of its mean, and nothing where p is 0."""
    counts, p = counts.double(), p.double()
    assert counts[p == 0].sum() == 0
    expected = counts.sum() * p[p > 0] / p.sum()
    statistic = ((counts[p > 0] - expected).square() / expected).sum().item()
    freedom = len(expected) - 1
    # its exact variance under the multinomial law; large where p has very rare entries
    variance = (
        2 * freedom + ((p.sum() / p[p > 0]).sum().item() - (freedom + 1) ** 2 - 2 * freedom) / counts.sum().item()
    )
    assert abs(statistic - freedom) <= 5 * math.sqrt(variance)


def many(rows: int) -> Rng:
    return Rng(torch.arange(rows))


def test_categorical_has_the_law_of_its_logits():
    logits = torch.tensor([0.3, -torch.inf, 2.0, -4.0, 1.0, -torch.inf, 0.0]).repeat(20, 1)[:, torch.arange(140) % 7]
    logits = logits - torch.arange(140) / 20
    drawn = many(20_000).categorical(logits[:1].expand(20_000, -1))
    assert_frequencies(torch.bincount(drawn, minlength=140), logits[0].double().exp())


def test_every_cell_of_the_inverse_cdf_is_as_wide_as_its_probability():
    torch.manual_seed(0)
    logits = torch.randn(6000) * 4
    logits[torch.rand(6000) < 0.1] = -torch.inf
    weights = unnormalised(logits[None])[0]
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), weights.double().cumsum(0)])
    p, low, high = weights.double() / edges[-1], edges[:-1] / edges[-1], edges[1:] / edges[-1]
    reach = p > 1e-13  # narrower cells are below the spacing of what is compared here
    assert reach.sum() > 5300
    margin = 1e-12 + 0 * p
    inner = torch.minimum(margin, p / 4)
    for u in (low + inner, high - inner):  # just inside both ends
        drawn = inverse_cdf(weights.expand(6000, -1), u.clamp(2**-53, 1 - 2**-53))
        wrong = (drawn != torch.arange(6000)) & reach & (p > 4e-13)
        assert not wrong.any(), drawn[wrong]


def test_float32_probabilities_are_kept_down_to_the_rarest_token():
    weights = torch.ones(6000)
    weights[1::2] = 1e-9  # a running float32 sum would skip all of these
    edges = weights.double().cumsum(0)
    u = (edges - weights.double() / 2) / edges[-1]  # the middle of each cell
    assert torch.equal(inverse_cdf(weights.expand(6000, -1), u), torch.arange(6000))


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 128, 1000])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(size):
    u = torch.tensor([2.0**-53, 1 - 2.0**-53, 1 - 2.0**-53, 1.0])
    for zeros in ([], [0], [size - 1], [0, size - 1], list(range(size // 2, size))):
        weights = torch.rand(4, size, generator=torch.Generator().manual_seed(size)) + 0.1
        if len(set(zeros)) < size:
            weights[:, zeros] = 0
        drawn = inverse_cdf(weights, u)
        assert (weights.gather(1, drawn[:, None]) > 0).all()
        possible = weights[0].nonzero()[:, 0]
        assert drawn[0] == possible[0]
        assert drawn[3] == possible[-1]


def test_the_last_token_gets_its_share_and_no_more():
    size, rows = 6000, 4000
    logits = torch.zeros(rows, size)
    logits[:, -1] = math.log(size / 9)  # mass near 1/10
    hits = (many(rows).categorical(logits) == size - 1).double().sum().item()
    p = (size / 9) / (size - 1 + size / 9)
    assert abs(hits - rows * p) < 5 * math.sqrt(rows * p * (1 - p))


def test_minus_infinity_is_never_drawn_and_a_sure_token_always():
    logits = torch.full((300, 130), -torch.inf)
    logits[:, 77] = -500.0
    assert (many(300).categorical(logits) == 77).all()


def test_huge_logits_are_no_trouble():
    logits = torch.tensor([[1e30, 1e30, -1e30, 0.0]]).expand(400, 4)
    drawn = many(400).categorical(logits)
    assert set(drawn.tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_draws_are_float32_or_wider_whatever_the_logits_are(dtype):
    logits = torch.zeros(1, 4096, dtype=dtype)  # a bfloat16 running sum would stop at 256
    u = (torch.arange(4096) + 0.5) / 4096
    assert torch.equal(inverse_cdf(unnormalised(logits).expand(4096, -1), u.double()), torch.arange(4096))


def test_integers_are_uniform_below_each_ones_own_bound():
    high = torch.tensor([1, 2, 3, 7]).expand(8000, 4)
    drawn = many(8000).integers(high)
    for k, bound in enumerate((1, 2, 3, 7)):
        assert_frequencies(torch.bincount(drawn[:, k], minlength=bound), torch.full((bound,), 1 / bound))


def test_ranks_are_a_uniform_order_of_the_free_positions():
    free = torch.tensor([True, False, True, True]).expand(6000, 4)
    ranks = many(6000).ranks(free)
    assert (ranks[:, 1] == torch.inf).all()
    place = (ranks[:, [0, 2, 3]] * 3 - 0.5).round().long()
    assert torch.equal(place.sort(-1).values, torch.arange(3).expand(6000, 3))
    assert_frequencies(
        torch.bincount(place[:, 0] * 3 + place[:, 1], minlength=9).view(3, 3)[~torch.eye(3).bool()], torch.ones(6) / 6
    )


def test_ranks_put_the_first_ones_first():
    free = torch.ones(500, 6, dtype=torch.bool)
    first = torch.tensor([False, True, False, False, True, False]).expand(500, 6)
    ranks = many(500).ranks(free, first=first)
    assert (ranks[first] < 2 / 6).all()
    assert (ranks[~first] > 2 / 6).all()
    assert abs((ranks[:, 1] < ranks[:, 4]).double().mean().item() - 0.5) < 5 * 0.5 / math.sqrt(500)


def test_order_to_ranks_counts_from_the_smallest_key():
    key = torch.tensor([[0.3, torch.inf, 0.1, 0.2]])
    assert order_to_ranks(key, key < torch.inf)[0].tolist() == [2.5 / 3, torch.inf, 0.5 / 3, 1.5 / 3]


def test_subsets_are_uniform_and_of_the_asked_size():
    among = torch.tensor([True, True, False, True, True]).expand(6000, 5)
    chosen = many(6000).subset(among, torch.full((6000,), 2))
    assert (chosen.sum(-1) == 2).all() and not (chosen & ~among).any()
    code = (chosen[:, [0, 1, 3, 4]] * 2 ** torch.arange(4)).sum(-1)
    pairs = torch.tensor([3, 5, 9, 6, 10, 12])
    assert_frequencies(torch.bincount(code, minlength=16)[pairs], torch.ones(6) / 6)
    assert torch.equal(many(6000).subset(among, torch.full((6000,), 9)), among)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_successive_draws_have_the_law_of_drawing_without_replacement(size):
    weight = torch.tensor([0.5, 0.3, 0.0, 0.15, 0.05, 1.0])
    among = torch.tensor([True] * 5 + [False]).expand(8000, 6)
    chosen = many(8000).successive(lambda mask: weight.log().expand(8000, 6), among, torch.full((8000,), size))
    law = torch.zeros(64)
    for order in itertools.permutations([0, 1, 3, 4], size):
        p, left = 1.0, 1.0
        for i in order:
            p, left = p * weight[i].item() / left, left - weight[i].item()
        law[sum(2**i for i in order)] += p
    assert_frequencies(torch.bincount((chosen * 2 ** torch.arange(6)).sum(-1), minlength=64), law)


def test_successive_draws_stop_where_no_weight_is_left():
    log_weight = torch.tensor([[-torch.inf, 0.0, -torch.inf], [-torch.inf] * 3, [0.0] * 3])
    chosen = Rng([0, 1, 2]).successive(lambda mask: log_weight, torch.ones(3, 3).bool(), torch.tensor([3, 1, 0]))
    assert chosen.tolist() == [[False, True, False], [False] * 3, [False] * 3]


@pytest.mark.parametrize("scale", [0.0, 1.0, 6.0])
def test_weights_that_cannot_win_are_never_asked_for(scale):
    rows, length = 200, 40
    log_weight = -scale * Rng(range(rows), stream=3).uniform(length)
    among, size = Rng(range(rows), stream=4).uniform(length) < 0.9, torch.arange(rows) % 5
    asked = torch.zeros(rows, length, dtype=torch.bool)

    def some(mask):
        assert not (mask & (asked | ~among)).any()  # none twice
        asked.logical_or_(mask)
        return torch.where(mask, log_weight, torch.nan)

    lazy = many(rows).successive(some, among, size)
    key = torch.where(among, torch.log(-torch.log(many(rows).uniform(length))) - log_weight, torch.inf)
    assert torch.equal(lazy, key.argsort(-1).argsort(-1) < size[:, None])
    if scale == 0:  # the clocks ring when they were started to: no more than the first chunk
        assert (asked.sum(-1) <= 6).all()
    assert asked.sum() < among.sum()


def test_two_branches_at_one_point_draw_apart_and_do_not_shift_what_follows():
    rng, alone = Rng([3, 4]), Rng([3, 4])
    first, second = rng.branch().uniform(5), rng.branch().uniform(5)
    alone.counter += 2
    assert not torch.isclose(first, second).any() and not torch.isclose(first, rng.uniform(5)).any()
    many = Rng([3, 4])
    many.branch().uniform(50)
    many.branch()
    assert torch.equal(many.uniform(5), alone.uniform(5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_short_logits_are_those_of_the_same_numbers_in_float32(dtype):
    logits = torch.linspace(-9, 0, 50).to(dtype)[None]
    assert torch.equal(unnormalised(logits), unnormalised(logits.float()))


def test_a_chain_draws_what_as_many_single_draws_would():
    weights = [torch.rand(4, 9, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    at = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 5, 0, 2])
    rng, other = Rng([5, 6, 7]), Rng([5, 6, 7])
    rng.uniform(1), other.uniform(1)
    drawn = rng.chain(3, lambda k, before: weights[k], at)
    assert torch.equal(torch.stack(drawn), torch.stack([other.weighted(one, at=at) for one in weights]))
    assert torch.equal(rng.uniform(2), other.uniform(2))
