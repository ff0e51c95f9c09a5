"""Laws that hold for every forward process of the table, and those of single ones."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import IDS, MASK, VOCABULARY, process_of, some_free, texts

from textdiff.core import bridges
from textdiff.core.levels import count
from textdiff.core.predictions import Categorical
from textdiff.core.rng import Rng
from textdiff.processes import PROCESSES, TOKENS
from textdiff.processes.replacement import Replacement, other_tokens
from textdiff.processes.uniform import Uniform
from textdiff.verify.enumeration import enumerate_draws

EXACT_COUNT = ("mask", "replacement", "redraw")

every_process = pytest.mark.parametrize("name", TOKENS)
every_counted = pytest.mark.parametrize("name", EXACT_COUNT)
inputs = given(
    seed=st.integers(0, 2**62),
    length=st.integers(1, 12),
    level=st.floats(0, 1),
    lower=st.floats(0, 1),
)
quickly = settings(max_examples=40, deadline=None)


def example(seed: int, length: int, level: float, rows: int = 6):
    x0, free = texts(rows, length, seed % 2**31), some_free(rows, length, seed % 2**31)
    t = torch.where(free, torch.tensor(level, dtype=torch.float64), 0.0)
    return x0, free, t, Rng([seed + k for k in range(rows)])


@every_process
@inputs
@quickly
def test_level_0_changes_nothing(name, seed, length, level, lower):
    x0, _, t, rng = example(seed, length, level)
    process = process_of(name)
    noise = process.noise(x0, t, rng=rng)
    assert torch.equal(process.corrupt(x0, torch.zeros_like(t), noise), x0)


@every_process
@inputs
@quickly
def test_given_text_stays_bit_identical(name, seed, length, level, lower):
    x0, free, t, rng = example(seed, length, level)
    process = process_of(name)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    s = t * lower
    x_s = process.bridge(x0, x_t, t, s, rng=rng)
    prior = process.prior(x0, free, rng=rng)
    for x in (x_t, x_s, prior):
        assert torch.equal(x[~free], x0[~free])


@every_process
@inputs
@quickly
def test_corruption_stays_inside_the_alphabet(name, seed, length, level, lower):
    x0, free, t, rng = example(seed, length, level)
    process = process_of(name)
    alphabet = torch.cat([VOCABULARY, torch.tensor([MASK])]) if PROCESSES[name].masks else VOCABULARY
    for x in (process.corrupt(x0, t, process.noise(x0, t, rng=rng)), process.prior(x0, free, rng=rng)):
        assert torch.isin(x, alphabet).all()


@every_process
@inputs
@quickly
def test_recovered_noise_leads_back_to_where_it_came_from(name, seed, length, level, lower):
    x0, _, t, rng = example(seed, length, level)
    process = process_of(name)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    noise = process.recover(x0, x_t, t, rng=rng)
    assert torch.equal(process.corrupt(x0, t, noise), x_t)


@every_process
@inputs
@quickly
def test_corruption_is_pure(name, seed, length, level, lower):
    x0, _, t, rng = example(seed, length, level)
    process, before = process_of(name), x0.clone()
    noise = process.noise(x0, t, rng=rng)
    assert torch.equal(process.corrupt(x0, t, noise), process.corrupt(x0, t, noise))
    assert torch.equal(x0, before)


@pytest.mark.parametrize("name", ["mask", "replacement"])
@inputs
@quickly
def test_the_count_is_exact(name, seed, length, level, lower):
    x0, free, t, rng = example(seed, length, level)
    process = process_of(name)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    assert torch.equal((x_t != x0).sum(-1), count(t, free))


@every_counted
@inputs
@quickly
def test_corruption_is_nested_in_the_level(name, seed, length, level, lower):
    x0, free, t, rng = example(seed, length, level)
    process = process_of(name)
    noise = process.noise(x0, t, rng=rng)
    x_t, x_s = process.corrupt(x0, t, noise), process.corrupt(x0, t * lower, noise)
    assert ((x_s == x_t) | (x_s == x0)).all()
    assert (((x_s != x0).sum(-1)) <= count(t * lower, free)).all()


@every_counted
@inputs
@quickly
def test_the_improved_bridge_only_turns_back(name, seed, length, level, lower):
    x0, free, t, rng = example(seed, length, level)
    process, s = process_of(name), t * lower
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
    x_s = process.bridge(x0, x_t, t, s, rng=rng)
    assert ((x_s == x_t) | (x_s == x0)).all()
    if name != "redraw":
        assert torch.equal((x_s != x0).sum(-1), count(s, free))


@every_process
def test_a_row_is_corrupted_the_same_beside_any_others(name):
    process = process_of(name)
    x0, free, t, _ = example(3, 9, 0.6)
    seeds = torch.arange(6)

    def all_of(rows):
        rng = Rng(seeds[rows])
        noise = process.noise(x0[rows], t[rows], rng=rng)
        x_t = process.corrupt(x0[rows], t[rows], noise)
        x_s = process.bridge(x0[rows], x_t, t[rows], t[rows] / 2, rng=rng)
        return torch.stack([x_t, x_s, process.prior(x0[rows], free[rows], rng=rng)], 1)

    together = all_of(torch.arange(6))
    for k in range(6):
        assert torch.equal(all_of(torch.tensor([k])), together[k : k + 1])
    assert torch.equal(all_of(torch.tensor([4, 1])), together[[4, 1]])


@every_process
def test_moves_says_whether_anything_changes(name):
    process = process_of(name)
    free = torch.tensor([[True, True, True, False], [False] * 4])
    t = free * torch.tensor(2 / 3, dtype=torch.float64)
    assert process.moves(t, t / 2).tolist() == [True, False]
    assert process.moves(t, t).tolist() == [False, False]


# -- laws, by walking through every draw ---------------------------------------------------------------------------------

LENGTH, SIZE, BASE = 3, 2, 4  # [MASK] = 2


def law(f, x: torch.Tensor) -> torch.Tensor:
    """Probabilities over codes of f(rows of x, rng), (rows of x, codes)."""
    index, outcome, weight = enumerate_draws(
        lambda items, rng: (f(x[items], rng) * BASE ** torch.arange(LENGTH)).sum(-1), torch.arange(len(x)), LENGTH
    )
    table = torch.zeros(len(x), BASE**LENGTH, dtype=torch.float64)
    return table.index_put_((index, outcome), weight, accumulate=True)


def every_text() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(SIZE), repeat=LENGTH)))


WALKS = [(1.0, 2 / 3), (1.0, 1 / 3), (2 / 3, 1 / 3), (0.9, 0.4), (1 / 3, 0.0)]
FREES = [[True, True, True], [True, False, True]]
BRIDGES = {
    "fresh": bridges.fresh,
    "improved": bridges.improved,
    "refresh 0": bridges.refresh(0.0),
    "refresh 0.5": bridges.refresh(0.5),
    "refresh 1": bridges.refresh(1.0),
}


@pytest.mark.parametrize(("levels", "free"), list(zip(WALKS, (FREES * 3)[:5], strict=True)))
@pytest.mark.parametrize(
    ("name", "bridge"),  # the uniform process recovers noise for one level alone and has a bridge of its own
    [(p, b) for p in TOKENS for b in BRIDGES if not (p == "uniform" and b.startswith("refresh"))],
)
def test_a_bridge_takes_the_law_at_t_to_the_law_at_s(name, bridge, levels, free):
    process = process_of(name, torch.arange(SIZE), SIZE)
    x0 = every_text()[[1, 4]]
    t, s = (torch.where(torch.tensor(free), torch.tensor(v, dtype=torch.float64), 0.0) for v in levels)

    def direct(x, rng):
        level = s.expand(len(x), -1)
        return process.corrupt(x, level, process.noise(x, level, rng=rng))

    def by_bridge(x, rng):
        high, low = t.expand(len(x), -1), s.expand(len(x), -1)
        x_t = process.corrupt(x, high, process.noise(x, high, rng=rng))
        return BRIDGES[bridge](process, x, x_t, high, low, rng=rng)

    first, second = law(direct, x0), law(by_bridge, x0)
    assert torch.allclose(first.sum(-1), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_COUNT)
@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_renewing_keeps_the_law_of_the_noise(name, size):
    process = process_of(name, torch.arange(SIZE), SIZE)
    x0, t = every_text()[[5]], torch.full((1, LENGTH), 1.0, dtype=torch.float64)

    def noise_code(noise):
        place = (noise.rank * LENGTH - 0.5).round().long()
        return torch.stack([place, noise.token], -1)

    def one(x, rng):
        return flat(noise_code(process.noise(x, t.expand(len(x), -1), rng=rng)))

    def renewed(x, rng):
        level = t.expand(len(x), -1)
        where = rng.subset(level > 0, torch.full((len(x),), size))
        noise = process.noise(x, level, rng=rng)
        return flat(noise_code(noise.renewed(process.noise(x, torch.where(where, level, 0.0), rng=rng), where)))

    def flat(pairs):
        return pairs[..., 0] * 4 + pairs[..., 1]

    def table(f):
        _, outcome, weight = enumerate_draws(
            lambda items, rng: (f(x0[items], rng) * 16 ** torch.arange(LENGTH)).sum(-1), torch.zeros(1).long(), LENGTH
        )
        return torch.zeros(16**LENGTH, dtype=torch.float64).index_add_(0, outcome, weight)

    assert torch.allclose(table(one), table(renewed), atol=1e-12)


@every_counted
def test_renewing_nothing_leaves_the_noise_and_renewing_all_of_it_forgets_it(name):
    process, x0 = process_of(name, torch.arange(SIZE), SIZE), every_text()
    t, s = (torch.full(x0.shape, level, dtype=torch.float64) for level in (1.0, 1 / 3))
    one, other = (process.noise(x0, t, rng=Rng(range(k, k + 8))) for k in (0, 8))
    x_t = process.corrupt(x0, t, one)
    kept = [f(process, x0, x_t, t, s, rng=Rng(range(8))) for f in (bridges.reuse, bridges.refresh(0.0))]
    new = [process.corrupt(x0, s, process.renew(noise, x0, t, 1.0, rng=Rng(range(8)))) for noise in (one, other)]
    assert torch.equal(*kept) and torch.equal(*new)


@pytest.mark.parametrize("name", ["replacement", "redraw"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.55, 0.8, 1.0])
def test_a_share_is_of_the_free_positions_rounded_to_the_nearest_number(name, share):
    """Of 6 free positions.  A token that is drawn anew from 10,000 is another one, but for 1 in 10,000."""
    process = process_of(name, torch.arange(10_000))
    x0 = torch.arange(8).repeat(50, 1)
    t = torch.ones(x0.shape, dtype=torch.float64)
    t[:, 3] = t[:, 6] = 0.0
    rng = Rng(range(50))
    noise = process.noise(x0, t, rng=rng)
    anew = process.renew(noise, x0, t, share, rng=rng).token != noise.token
    assert not anew[:, [3, 6]].any()
    assert anew.sum(-1).mode().values == round(share * 6) and anew.sum(-1).max() == round(share * 6)


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8, 1.0])
def test_the_flags_of_the_uniform_process_are_recovered_by_bayes_rule(level):
    """x_t and its flags have one joint law, whether the flags come first or are recovered from x_t."""
    process, x0 = process_of("uniform", torch.arange(SIZE), SIZE), torch.tensor([[0, 1, 1]])
    t = torch.full((1, LENGTH), level, dtype=torch.float64)

    def first(x, rng):
        noise = process.noise(x, t.expand(len(x), -1), rng=rng)
        return process.corrupt(x, t.expand(len(x), -1), noise) + SIZE * noise.flag

    def recovered(x, rng):
        high = t.expand(len(x), -1)
        x_t = process.corrupt(x, high, process.noise(x, high, rng=rng))
        return x_t + SIZE * process.recover(x, x_t, high, rng=rng).flag

    assert torch.allclose(law(first, x0), law(recovered, x0), atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_exact_count_corruption_is_uniform_over_subsets_and_other_tokens(level):
    vocabulary = torch.arange(3)
    x0 = torch.tensor([[0, 2, 1]])
    found = law(
        lambda x, rng: Replacement(vocabulary).corrupt(
            x, t := torch.full(x.shape, level, dtype=torch.float64), Replacement(vocabulary).noise(x, t, rng=rng)
        ),
        x0,
    )[0]
    m = int(count(torch.full((1, 3), level), torch.ones(1, 3)))
    hits = [
        x for x in itertools.product(range(3), repeat=3) if sum(a != b for a, b in zip(x, (0, 2, 1), strict=True)) == m
    ]
    for x in hits:
        assert abs(found[sum(v * BASE**i for i, v in enumerate(x))].item() - 1 / len(hits)) < 1e-12


@pytest.mark.parametrize("token", [2, 11, 5])
def test_another_token_is_uniform_over_all_the_others_at_both_ends(token):
    drawn = other_tokens(VOCABULARY, torch.full((2000, 6), token), torch.ones(2000, 6).bool(), rng=Rng(range(2000)))
    counts = torch.bincount(drawn.flatten(), minlength=IDS)
    assert counts[token] == 0 and counts.sum() == counts[VOCABULARY].sum()
    share = counts[VOCABULARY[token != VOCABULARY]] / 12000
    assert (abs(share - 0.2) < 5 * (0.2 * 0.8 / 12000) ** 0.5).all()


@pytest.mark.parametrize("outside", [0, 4, 12])
def test_a_token_outside_the_vocabulary_may_become_any_of_it(outside):
    drawn = other_tokens(VOCABULARY, torch.full((500, 6), outside), torch.ones(500, 6).bool(), rng=Rng(range(500)))
    assert set(drawn.unique().tolist()) == set(VOCABULARY.tolist())


# -- the uniform process -----------------------------------------------------------------------------------------------


def uniform_mixture(q: torch.Tensor, x_t: int, alpha_t: float, alpha_s: float) -> torch.Tensor:
    """Σ_v q(v) p(x_s | x_t, x0 = v) by Bayes' rule on the forward chain, written out."""
    size = len(q)
    eye, flat = torch.eye(size, dtype=torch.float64), torch.full((size, size), 1 / size, dtype=torch.float64)
    to_s = alpha_s * eye + (1 - alpha_s) * flat
    to_t = alpha_t / alpha_s * eye + (1 - alpha_t / alpha_s) * flat
    joint = to_s * to_t[:, x_t]  # (x0, x_s)
    return q @ (joint / joint.sum(-1, keepdim=True))


def test_the_brute_force_mixture_is_the_published_one():
    q = torch.tensor([0.842, 0.105, 0.053], dtype=torch.float64)
    exact = torch.tensor([0.832, 0.095, 0.073], dtype=torch.float64)
    assert torch.allclose(uniform_mixture(q, 0, 0.3, 0.6), exact, atol=6e-4)


@pytest.mark.parametrize("x_t", [0, 1, 2])
@pytest.mark.parametrize(("alpha_t", "alpha_s"), [(0.3, 0.6), (0.0, 0.25), (0.5, 1.0), (0.9, 0.95)])
def test_draft_and_bridge_together_draw_from_the_mixture(x_t, alpha_t, alpha_s):
    q = torch.tensor([0.842, 0.105, 0.053], dtype=torch.float64)
    process = Uniform(torch.arange(3))

    def step(x, rng):
        t, s = (torch.full(x.shape, 1 - a, dtype=torch.float64) for a in (alpha_t, alpha_s))
        x0 = Categorical.from_logits(q.log().expand(*x.shape, 3), x).draw(rng=rng)
        return process.bridge(x0, x, t, s, rng=rng)

    found = law(step, torch.full((1, LENGTH), x_t))[0].view(BASE, BASE, BASE)
    assert torch.allclose(found.sum((1, 2))[:3], uniform_mixture(q, x_t, alpha_t, alpha_s), atol=1e-12)


@pytest.mark.parametrize(("alpha_t", "alpha_s"), [(0.3, 0.6), (0.0, 0.25), (0.5, 1.0)])
def test_the_uniform_bound_is_the_divergence_to_the_mixture(alpha_t, alpha_s):
    q = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    process = Uniform(torch.arange(3))
    for x0, x_t in itertools.product(range(3), range(3)):
        truth = uniform_mixture(torch.eye(3, dtype=torch.float64)[x0], x_t, alpha_t, alpha_s)
        mixture = uniform_mixture(q, x_t, alpha_t, alpha_s)
        expected = torch.where(truth > 0, truth * (truth / mixture).log(), 0.0).sum().item()
        x = torch.tensor([[x_t, x_t]])
        t, s = (torch.full((1, 2), 1 - a, dtype=torch.float64) for a in (alpha_t, alpha_s))
        t[0, 1] = s[0, 1] = 0.0  # given
        prediction = Categorical.from_logits(q.log().expand(1, 2, 3), x)
        assert abs(process.bound(prediction, torch.tensor([[x0, 2]]), x, t, s).item() - expected) < 1e-12


# -- bounds at their edges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["marginal", "count"])
def test_a_prediction_that_excludes_the_truth_has_an_infinite_bound_and_never_nan(rule):
    x0, x_t = torch.tensor([[0, 1, 2]]), torch.tensor([[1, 1, 2]])
    t, s = torch.full((1, 3), 1 / 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    sure = torch.full((1, 3, 3), -torch.inf)
    sure[0, torch.arange(3), x_t[0]] = 0.0  # sure that nothing is wrong
    shut = torch.zeros(1, 3, 3)
    shut[0, 0, 0] = -torch.inf  # everything but the truth
    for logits in (sure, shut):
        bound = Replacement(torch.arange(3), rule).bound(Categorical.from_logits(logits, x_t), x0, x_t, t, s)
        assert bound.item() == torch.inf


def test_a_replacement_bound_over_two_positions_is_refused():
    x = torch.zeros(1, 3, dtype=torch.long)
    t = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="one position"):
        Replacement(torch.arange(3)).bound(Categorical.from_logits(torch.zeros(1, 3, 3), x), x, x, t, t / 3)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        bridges.refresh(share)
