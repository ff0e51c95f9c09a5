"""Embedding diffusion on vocabularies small enough to know the posterior: Bayes' rule over all texts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.contracts import Query
from textdiff.core.levels import even_levels
from textdiff.core.likelihood import nelbo
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule
from textdiff.processes.embedding import embedding
from textdiff.samplers import ancestral
from textdiff.samplers.interpolation import interpolated
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.normals import FINE, expected_bound, moments
from textdiff.verify.spaces import Space, total_variation
from textdiff.verify.values import last, run
from textdiff.verify.vectors import posterior

COSINE, LINEAR, SQRT, FLOW = (get_schedule(name) for name in ("cosine", "linear", "sqrt", "flow"))
quickly = settings(max_examples=25, deadline=None)


def table_of(size: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(space: Space, width: int, schedule: Any = COSINE, **options: Any) -> Any:
    return embedding(table_of(space.size, width), torch.arange(space.size), schedule, **options)


# -- the encoder -------------------------------------------------------------------------------------------------------------


@given(size=st.integers(2, 12), width=st.integers(2, 9), seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
@quickly
def test_every_token_has_the_norm_of_the_width_whatever_the_table(size, width, seed, scale):
    table = scale * table_of(size, width, seed)
    vectors = embedding(table, torch.arange(size), COSINE).encode(torch.arange(size))
    assert torch.allclose(vectors.square().sum(-1), torch.full((size,), float(width)).double())
    assert torch.allclose(torch.nn.functional.cosine_similarity(vectors, table), torch.ones(size).double())


@given(seed=st.integers(0, 2**31), length=st.integers(1, 7))
@quickly
def test_level_0_reads_back_as_the_tokens_it_was_made_of(seed, length):
    vocabulary = torch.tensor([2, 3, 5, 8])  # other rows are special tokens, nearer to some than they are themselves
    table = table_of(9, 3, seed)
    table[4] = table[3] * 1.001
    process = embedding(table, vocabulary, COSINE)
    ids = vocabulary[torch.randint(4, (3, length), generator=torch.Generator().manual_seed(seed))]
    assert torch.equal(process.decode(process.encode(ids)), ids)
    noisy = process.encode(ids) + 1e-3 * Rng([1, 2, 3]).normal(length, 3)
    assert torch.isin(process.decode(noisy), vocabulary).all()


def test_vectors_count_as_encoded_already():
    process = embedding(table_of(4, 3), torch.arange(4), COSINE)
    x = Rng([1]).normal(2, 3)
    assert process.encode(x) is x


def test_gradients_reach_the_table_along_the_sphere_alone():
    """The scale is fixed: what would make a vector longer does nothing."""
    table = table_of(4, 3).requires_grad_()
    process = embedding(table, torch.arange(4), COSINE)
    t = torch.full((1, 2), 0.5).double()
    x_t = process.corrupt(torch.tensor([[1, 3]]), t, process.noise(torch.tensor([[1, 3]]), t, rng=Rng([0])))
    (gradient,) = torch.autograd.grad((x_t**3).sum(), table)
    assert gradient[[1, 3]].norm() > 0.1 and not gradient[[0, 2]].any()
    assert torch.allclose((gradient * table).sum(-1), torch.zeros(4).double(), atol=1e-12)


# -- the process -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bridge", [bridges.fresh, bridges.reuse, bridges.markov(1.0), bridges.markov(0.3)])
@pytest.mark.parametrize("pair", [(1.0, 0.7), (0.4, 0.1), (0.2, 0.0)])
def test_a_bridge_takes_the_law_at_t_to_the_law_at_s_and_ends_at_the_tokens(bridge, pair):
    process = embedding(table_of(4, 2), torch.arange(4), SQRT)
    ids = torch.tensor([[2, 0]])

    def f(rng: Rng) -> Tensor:
        x0 = ids.expand(len(rng.keys), 2)
        t, s = (torch.full(x0.shape, level).double() for level in pair)
        x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
        return bridge(process, x0, x_t, t, s, rng=rng)

    mean, covariance = moments(f)
    alpha, beta = SQRT(torch.tensor(pair[1]).double())
    assert torch.allclose(mean, alpha * process.encode(ids).flatten(), atol=1e-12)
    assert torch.allclose(covariance, beta**2 * torch.eye(4).double(), atol=1e-12)


def test_given_tokens_stay_and_are_seen_clean():
    space = Space.random(3, 4, seed=1)
    process = made(space, 3)
    given_ids, free = torch.tensor([[1, 2, 3]] * 5), torch.tensor([[True, False, True]] * 5)
    seen = []

    def predictor(query: Query) -> Categorical:
        x_t, t, at = query.x_t, query.t, query.at
        seen.append(x_t)
        assert not t[:, 1].any() and 1 not in at[1]
        return Categorical.from_logits(torch.zeros(len(at[0]), 4), torch.zeros(5, 3, dtype=torch.long), at)

    for step in (ancestral.ddpm(), ancestral.improved(), ancestral.baseline(), ancestral.refreshed()):
        states = list(
            sample(given_ids, free, even_levels(4), step, predictor=predictor, process=process, rng=Rng(range(5)))
        )
        clean = process.encode(given_ids)[:, 1]
        assert all(torch.equal(state.x[:, 1], clean) for state in states)
        assert (process.decode(states[-1].x)[:, 1] == 2).all()
    assert all(torch.equal(x[:, 1], process.encode(given_ids)[:, 1]) for x in seen)


def test_the_last_step_ends_at_the_very_tokens_that_were_drawn():
    space = Space.random(2, 5, seed=3)
    process = made(space, 2)
    state = last(
        sample(
            torch.zeros(200, 2, dtype=torch.long), torch.ones(200, 2).bool(), even_levels(4), ancestral.ddpm(),
            predictor=posterior(process, space), process=process, rng=Rng(range(200)),
        )
    )  # fmt: skip
    assert torch.equal(process.decode(state.x), state.x0)
    assert torch.equal(state.x, process.encode(state.x0))


# -- the exact posterior -----------------------------------------------------------------------------------------------------


def test_the_posterior_is_that_of_bayes_rule_written_out():
    space = Space.random(2, 3, seed=4)
    process = made(space, 2)
    predictor = posterior(process, space)
    x_t, t = Rng([5, 6]).normal(2, 2), torch.tensor([[0.3, 0.3], [0.9, 0.9]]).double()
    (logits,) = (predictor(Query(x_t, t)).logits().view(2, 2, 3),)
    texts = space.decode(space.support())
    for row in range(2):
        alpha, beta = COSINE(t[row, 0])
        weight = torch.stack(
            [
                space.p0[space.code(text[None])][0]
                * torch.exp(-(x_t[row] - alpha * process.encode(text)).square().sum() / (2 * beta**2))
                for text in texts
            ]
        )
        for place in range(2):
            marginal = torch.stack([weight[texts[:, place] == v].sum() for v in range(3)]) / weight.sum()
            assert torch.allclose(logits[row, place].softmax(-1), marginal, atol=1e-12)


def test_score_interpolation_is_the_exact_posterior_mean():
    space = Space.random(1, 4, seed=6)
    process = made(space, 3)
    x_t, t = Rng(range(5)).normal(1, 3), torch.full((5, 1), 0.4).double()
    prediction = posterior(process, space)(Query(x_t, t))
    mean, deviation = prediction.expect(process.encode)
    alpha, beta = COSINE(torch.tensor(0.4).double())
    vectors = process.encode(torch.arange(4))
    weight = space.p0[space.support()] * torch.exp(-(x_t - alpha * vectors).square().sum(-1) / (2 * beta**2))
    assert torch.allclose(mean[:, 0], weight @ vectors / weight.sum(-1, keepdim=True), atol=1e-9)
    assert not deviation.any()
    pinned = prediction.pin(torch.full((5, 1), 2), torch.tensor([[True], [False], [False], [False], [True]]))
    kept, _ = pinned.expect(process.encode)
    assert torch.allclose(kept[[0, 4], 0], vectors[[2, 2]]) and torch.equal(kept[1:4], mean[1:4])


def test_the_score_of_the_expected_vector_is_that_of_the_mixture():
    """∇ log p_t = −ε̂/β with ε̂ from E[E(x0) | x_t]: by automatic differentiation of the density."""
    space = Space.random(1, 4, seed=6)
    process = made(space, 3)
    x_t, level = Rng(range(5)).normal(1, 3).requires_grad_(), torch.tensor(0.4).double()
    alpha, beta = COSINE(level)
    vectors = process.encode(torch.arange(4))
    density = space.p0[space.support()].log() - (x_t - alpha * vectors).square().sum(-1) / (2 * beta**2)
    (score,) = torch.autograd.grad(density.logsumexp(-1).sum(), x_t)
    mean, _ = posterior(process, space)(Query(x_t.detach(), level.expand(5, 1))).expect(process.encode)
    assert torch.allclose(score, -(x_t.detach() - alpha * mean) / beta**2, atol=1e-9)


# -- chains ------------------------------------------------------------------------------------------------------------------

ROWS = 4000


def sampled(space: Space, process: Any, step: Any, steps: int) -> Tensor:
    """Frequencies over codes of ROWS texts, from the prior."""
    given_ids = torch.zeros(ROWS, space.length, dtype=torch.long)
    x, _ = run(process, step, steps, posterior(process, space), given_ids, Rng(torch.arange(ROWS)))
    return torch.bincount(space.code(x), minlength=len(space.p0)) / ROWS


@pytest.mark.parametrize(("size", "width", "schedule"), [(5, 3, COSINE), (4, 2, SQRT), (3, 2, FLOW)])
@pytest.mark.parametrize("step", [ancestral.ddpm(), ancestral.improved(), ancestral.baseline()])
def test_texts_of_one_position_have_their_law_with_any_number_of_steps(size, width, schedule, step):
    """Every draft is drawn from the whole posterior; ᾱ_1 is nearly 0 under these schedules."""
    space = Space.random(1, size, seed=size)
    for steps in (3, 8):
        found = sampled(space, made(space, width, schedule), step, steps)
        assert (abs(found - space.p0) < 4.5 * (space.p0 * (1 - space.p0) / ROWS).sqrt() + 1e-9).all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_score_interpolation_draws_in_its_last_step(eta):
    """Up to there the vectors are means of embeddings, and at the end they are embeddings."""
    space = Space.random(2, 3, seed=1)
    process = made(space, 2)
    given, free = torch.zeros(20, 2, dtype=torch.long), torch.ones(20, 2, dtype=torch.bool)
    parts = {"predictor": posterior(process, space), "process": process, "rng": Rng(range(20))}
    *_, before, end = sample(given, free, [0.75, 0.5, 0.0], interpolated(eta), **parts)
    assert torch.allclose(end.x, process.encode(process.decode(end.x)))
    assert not torch.isclose(before.x, process.encode(process.decode(before.x))).all(-1).any()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_score_interpolation_draws_noise_between_its_steps_where_eta_says_so(eta):
    space = Space.random(2, 3, seed=1)
    process = made(space, 2)
    given, free = torch.zeros(20, 2, dtype=torch.long), torch.ones(20, 2, dtype=torch.bool)
    parts = {"predictor": posterior(process, space), "process": process, "start": Rng(range(20)).normal(2, 2)}
    one, other = (
        list(sample(given, free, [0.75, 0.5], interpolated(eta), rng=Rng(torch.arange(20) + seed), **parts))[-1].x
        for seed in (0, 100)
    )
    assert torch.equal(one, other) == (eta == 0)


def test_many_steps_of_ddpm_reproduce_a_joint_law_that_few_do_not():
    space = Space.random(2, 3, seed=1, concentration=0.2)
    process = made(space, 2)
    noise = (space.p0 * (1 - space.p0) / (2 * math.pi * ROWS)).sqrt().sum().item()  # E of the distance by chance alone
    few, many = (total_variation(sampled(space, process, ancestral.ddpm(), steps), space.p0) for steps in (2, 24))
    assert few > 0.1 and many < 2.5 * noise


SIGNED = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)


@pytest.mark.parametrize("step", [ancestral.ddpm(), ancestral.improved(), ancestral.refreshed(0.5)])
def test_two_tokens_have_their_law_exactly(step):
    """By quadrature over every normal and enumeration of every draft; under `flow` the prior is the law of x_1."""
    space = Space.random(1, 2, seed=7)
    process = embedding(SIGNED, torch.arange(2), FLOW)
    predictor = posterior(process, space)

    def end(item: Tensor, rng: Rng) -> Tensor:
        return space.code(run(process, step, 2, predictor, space.decode(item), rng)[0])

    _, outcome, weight = enumerate_draws(end, space.support()[:1], 1, FINE)
    law = torch.zeros_like(space.p0).index_add_(0, outcome, weight)
    assert total_variation(law, space.p0) < 1e-9


# -- bounds ------------------------------------------------------------------------------------------------------------------


def excess(space: Space, process: Any, predictor: Any) -> float:
    items = space.support()
    bound = expected_bound(
        process, predictor, lambda item, rng: space.decode(item), items, space.p0[items], FINE, space.length
    )
    return bound - space.entropy


@pytest.mark.parametrize("schedule", [COSINE, *(pytest.param(s, marks=pytest.mark.slow) for s in (FLOW, LINEAR))])
def test_the_bound_of_one_position_is_above_the_entropy_and_comes_down_to_it(schedule):
    space = Space.random(1, 2, seed=7)
    few, many = (
        excess(space, process, posterior(process, space))
        for process in (embedding(SIGNED, torch.arange(2), schedule, steps=steps) for steps in (20, 80))
    )
    assert 0 < many < 0.3 * few and many < 0.05


@pytest.mark.slow
def test_the_bound_of_two_positions_stays_above_the_entropy_and_comes_near_it():
    space = Space.random(2, 2, seed=8, concentration=0.3)
    few, many = (
        excess(space, process, posterior(process, space))
        for process in (embedding(SIGNED, torch.arange(2), COSINE, steps=steps) for steps in (12, 48))
    )
    assert 0 < many < 0.3 * few and many < 0.1


def test_a_predictor_that_knows_less_has_a_larger_bound():
    space = Space.random(1, 2, seed=7)
    process = embedding(SIGNED, torch.arange(2), COSINE, steps=20)
    exact = posterior(process, space)

    def flat(query: Query) -> Categorical:
        return exact(query).map(lambda logits, *_: logits / 2)

    assert excess(space, process, flat) > excess(space, process, exact) + 0.02


def test_nelbo_estimates_that_bound_from_seeds():
    space = Space.random(1, 4, seed=2)
    process = made(space, 3, steps=60)
    rows = 1500
    texts = space.decode((space.p0.cumsum(0) < (torch.arange(rows).double()[:, None] + 0.5) / rows).sum(-1))
    bound = nelbo(
        texts, torch.ones_like(texts).bool(), predictor=posterior(process, space), process=process,
        seeds=torch.arange(rows), levels=10, rows=10**5,
    )  # fmt: skip
    error = bound.std().item() / math.sqrt(rows)
    assert space.entropy - 4 * error < bound.mean() < space.entropy + 0.15 + 4 * error
