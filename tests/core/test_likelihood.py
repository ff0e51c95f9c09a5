"""Laws of the bounds: tight where they should be, unbiased, and each text's its own."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tables import Table, process_of, some_free, texts

from textdiff.core.contracts import Query
from textdiff.core.likelihood import nelbo, ratio, terms
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.processes import TOKENS
from textdiff.processes.replacement import Redraw
from textdiff.processes.uniform import Uniform
from textdiff.verify.spaces import ExactPredictor, Space, corrupted_law, exact_bound
from textdiff.verify.tokens import build

BOUNDED = [p for p in TOKENS if p != "redraw"]
SPACES = [Space.random(3, 3), Space.random(2, 4, seed=1), Space.random(4, 2, seed=2)]
SHAPES = [f"L={space.length} V={space.size}" for space in SPACES]


@pytest.mark.parametrize("space", SPACES, ids=SHAPES)
def test_the_mask_bound_of_an_exact_predictor_is_the_entropy(space):
    process = build("mask", space)
    assert abs(exact_bound(space, process, ExactPredictor(space, process)) - space.entropy) < 1e-12


@pytest.mark.parametrize("space", SPACES, ids=SHAPES)
@pytest.mark.parametrize("rule", ["marginal", "count"])
def test_the_replacement_bounds_are_bounds(space, rule):
    process = replace(build("replacement", space), rule=rule)
    assert exact_bound(space, process, ExactPredictor(space, process)) > space.entropy


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("rule", ["marginal", "count"])
def test_a_replacement_bound_is_the_divergence_of_one_true_edit_from_the_rule(rule, m):
    """The true edit is a uniform one of the m corrupted positions with x0's token, against P(i, v) summed over all subsets."""
    q = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.7, 0.05]]).double()
    x0 = torch.tensor([[0, 1, 2]])
    x_t = torch.where(torch.arange(3) < m, (x0 + 1) % 3, x0)
    d = 1 - q.gather(1, x_t.T)[:, 0]
    if rule == "marginal":
        position = d / d.sum()
    else:
        sets = [s for s in itertools.product((0, 1), repeat=3) if sum(s) == m]
        mass = torch.stack([torch.where(torch.tensor(s) == 1, d, 1 - d).prod() for s in sets])
        position = (mass / mass.sum()) @ torch.tensor(sets).double() / m
    pick = position / d * q.gather(1, x0.T)[:, 0]  # P(i, x0_i)
    expected = sum(math.log(1 / m / pick[i].item()) / m for i in range(m))
    t, s = (torch.full((1, 3), k / 3, dtype=torch.float64) for k in (m, m - 1))
    process = replace(build("replacement", Space.random(3, 3)), rule=rule)
    bound = process.bound(Categorical.from_logits(q.log()[None], x_t), x0, x_t, t, s)
    assert bound.item() == pytest.approx(expected)


def test_the_marginal_rule_has_the_better_replacement_bound_of_an_exact_predictor():
    space = SPACES[0]
    process = build("replacement", space)
    predictor = ExactPredictor(space, process)
    by_marginal, by_count = (
        exact_bound(space, replace(process, rule=rule), predictor) for rule in ("marginal", "count")
    )
    assert space.entropy + 1 < by_marginal < by_count < by_marginal + 0.1


@pytest.mark.parametrize("space", SPACES[:1], ids=SHAPES[:1])
def test_the_uniform_bound_gets_tighter_with_more_steps(space):
    bounds = []
    for steps in (2, 8, 32):
        process = Uniform(torch.arange(space.size), steps)
        bounds.append(exact_bound(space, process, ExactPredictor(space, process)))
    assert bounds[0] > bounds[1] > bounds[2] > space.entropy - 1e-9
    assert bounds[2] - space.entropy < 0.1


def test_a_worse_predictor_has_a_worse_mask_bound_by_its_divergence():
    """Every conditional mixed with the uniform law: the bound is the mean of the cross-entropies of a random order."""
    space = SPACES[0]
    process = build("mask", space)
    exact = ExactPredictor(space, process)

    def blurred(query):
        prediction = exact(query)
        text = torch.arange(4) < 3
        return prediction.map(lambda logits, *_: (0.7 * logits.exp() + 0.3 / 3 * text).log())

    total = 0.0
    for order in itertools.permutations(range(3)):
        for code in space.support().tolist():
            x0 = space.decode(torch.tensor([code]))
            x, log_p = torch.full_like(x0, 3), 0.0
            for k, i in enumerate(order):
                t = torch.full((1, 3), 1 - k / 3, dtype=torch.float64)
                log_p += blurred(Query(x, t)).log_prob(x0)[0][0, i].item()
                x = torch.where(torch.arange(3) == i, x0, x)
            total -= space.p0[code].item() * log_p / 6
    assert abs(exact_bound(space, process, blurred) - total) < 1e-12


def exact_bound_of(space: Space, process, predictor, x0: torch.Tensor) -> float:
    """The bound of one text x0 (L,): every x_t of every level, summed."""
    at_x0 = Space(space.length, space.size, torch.zeros_like(space.p0).index_fill(0, space.code(x0), 1.0))
    return exact_bound(at_x0, process, predictor)


@pytest.mark.parametrize("levels", [None, 1, 2])
@pytest.mark.parametrize("name", BOUNDED)
def test_the_estimate_is_unbiased_for_any_number_of_levels(name, levels):
    space = SPACES[0]
    process = Uniform(torch.arange(3), 5) if name == "uniform" else build(name, space)
    predictor = ExactPredictor(space, process)
    x0, runs = torch.tensor([0, 2, 1]), 3000
    rows = x0.expand(runs, -1)
    estimates = nelbo(
        rows,
        torch.ones_like(rows, dtype=torch.bool),
        predictor=predictor,
        process=process,
        seeds=torch.arange(runs),
        levels=levels,
        rows=10_000,
    )
    exact = exact_bound_of(space, process, predictor, x0)
    assert abs(estimates.mean().item() - exact) < 5 * estimates.std().item() / math.sqrt(runs) + 1e-9


@pytest.mark.parametrize("name", BOUNDED)
def test_all_levels_have_the_least_variance(name):
    space = SPACES[0]
    process = Uniform(torch.arange(3), 6) if name == "uniform" else build(name, space)
    predictor = ExactPredictor(space, process)
    rows = torch.tensor([0, 2, 1]).expand(600, -1)
    spread = [
        nelbo(rows, rows >= 0, predictor=predictor, process=process, seeds=torch.arange(600), levels=k, rows=9000).std()
        for k in (None, 1)
    ]
    assert spread[0] < spread[1]


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("name", BOUNDED)
def test_the_terms_add_up_to_the_bound_and_each_is_unbiased(name, levels):
    space, runs = SPACES[0], 2000
    process = Uniform(torch.arange(3), 5) if name == "uniform" else build(name, space)
    rows = torch.tensor([0, 2, 1]).expand(runs, -1)
    told = dict(predictor=ExactPredictor(space, process), process=process, seeds=torch.arange(runs), rows=10_000)
    parts, whole = (terms(rows, rows >= 0, levels=k, **told) for k in (levels, None))
    steps = int(process.bound_steps(torch.tensor([3])))
    assert torch.equal(parts.total(), nelbo(rows, rows >= 0, levels=levels, **told))
    assert torch.allclose(parts.curve(steps).sum() + parts.prior.mean(), parts.total().mean())
    assert torch.allclose(parts.decoder().mean(), parts.curve(steps)[0])
    for j in range(1, steps + 1):
        each = [torch.zeros(runs).double().index_add(0, p.text, p.nats * (p.step == j)) for p in (parts, whole)]
        error = sum(e.var() for e in each).sqrt() / math.sqrt(runs)
        assert abs(each[0].mean() - each[1].mean()) < 5 * error + 1e-9


def flat(query):
    """All tokens of the shared vocabulary alike."""
    x_t, at = query.x_t, query.at
    at = positions_of(torch.ones_like(x_t, dtype=torch.bool)) if at is None else at
    logits = torch.full((len(at[0]), 13), -torch.inf)
    logits[:, process_of("replacement").vocabulary] = 0.0
    return Categorical.from_logits(logits, x_t, at)


@pytest.mark.parametrize("levels", [None, 3])
def test_a_predictor_that_knows_nothing_pays_log_v_for_each_free_position(levels):
    x0, free = texts(8, 9), some_free(8, 9)
    bound = nelbo(x0, free, predictor=flat, process=process_of("mask"), seeds=torch.arange(8), levels=levels)
    every = free.sum(-1) * math.log(6)
    if levels is None:
        assert torch.allclose(bound, every.double())
    else:
        assert torch.allclose(bound[free.sum(-1) % 3 == 0], every[free.sum(-1) % 3 == 0].double())  # whole strata


def test_the_levels_of_a_text_are_drawn_independently_in_their_strata():
    """Of 8 levels in 2 strata every pair comes up."""
    x0, free = texts(1, 8).expand(400, -1), torch.ones(400, 8, dtype=torch.bool)
    drawn = terms(x0, free, predictor=flat, process=process_of("mask"), seeds=torch.arange(400), levels=2).step
    pairs = {tuple(pair) for pair in drawn.view(400, 2).tolist()}
    assert pairs == {(j, k) for j in range(1, 5) for k in range(5, 9)}


@pytest.mark.parametrize("levels", [None, 1, 3, 50])
@pytest.mark.parametrize("name", BOUNDED)
def test_every_stratum_of_levels_is_visited_once(name, levels):
    x0, free, process = texts(8, 9), some_free(8, 9), process_of(name)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(query):
        x_t, t = query.x_t, query.t
        seen.append((x_t, t.amax(-1)))
        return flat(query)

    nelbo(x0, free, predictor=spy, process=process, seeds=torch.arange(8), levels=levels, rows=7)
    steps = process.bound_steps(free.sum(-1))
    used = steps if levels is None else steps.clamp(max=levels)
    assert all(len(x) <= 7 for x, _ in seen)
    level = torch.cat([t for _, t in seen]).split(used.tolist())  # texts come one after another
    for k, (total, own) in enumerate(zip(steps.tolist(), level, strict=True)):
        j = (own * total).round()
        stratum = torch.arange(len(j)) * total / len(j)
        assert ((j > stratum - 1e-9) & (j - 1 < stratum + total / len(j) + 1e-9)).all(), k
    assert sum(len(x) for x, _ in seen) == used.sum()


@pytest.mark.parametrize("name", BOUNDED)
def test_a_texts_bound_depends_on_its_own_seed_alone(name):
    x0, free, seeds = texts(8, 9), some_free(8, 9), torch.arange(8) * 7 + 1
    condition = torch.arange(8)[:, None]

    def bound(index, rows):
        told: list[bool] = []
        table = Table(9)

        def predictor(query):
            x_t, t, at, condition = query.x_t, query.t, query.at, query.condition
            told.append((free[condition[:, 0]] == (t > 0)).all().item())  # every row with its own condition
            return table(Query(x_t, t, at=at))

        result = nelbo(
            x0[index],
            free[index],
            predictor=predictor,
            process=process_of(name),
            seeds=seeds[index],
            levels=4,
            condition=condition[index],
            rows=rows,
        )
        assert all(told)
        return result

    together = bound(torch.arange(8), 64)
    for index, rows in (([3], 64), ([5, 1], 3), (list(range(8)), 5)):
        assert torch.equal(bound(torch.tensor(index), rows), together[index])


@pytest.mark.parametrize("name", BOUNDED)
def test_given_positions_are_seen_clean_and_neither_asked_nor_scored(name):
    x0, free = texts(8, 9), some_free(8, 9)

    def predictor(query):
        x_t, t, at, condition = query.x_t, query.t, query.at, query.condition
        assert (t > 0)[at].all()
        assert torch.equal(x_t[~free[condition]], x0[condition][~free[condition]])
        return Table(9)(Query(x_t, t, at=at))

    arguments = dict(predictor=predictor, process=process_of(name), seeds=torch.arange(8), condition=torch.arange(8))
    assert (nelbo(x0, free, **arguments) > 0).all()
    assert (nelbo(x0, free & False, **arguments) == 0).all()


def test_the_mask_bound_asks_only_where_the_text_is_masked():
    x0, free = texts(8, 9), some_free(8, 9)
    table = Table(9)
    nelbo(x0, free, predictor=table, process=process_of("mask"), seeds=torch.arange(8), rows=10_000)
    assert sum(len(rows) for rows, _ in table.asked) == sum(n * (n + 1) // 2 for n in free.sum(-1).tolist())


def test_the_redraw_variant_has_no_bound_and_says_where_to_find_one():
    x = texts(2, 3)
    with pytest.raises(NotImplementedError, match="replacement"):
        nelbo(x, x >= 0, predictor=flat, process=Redraw(torch.arange(6)), seeds=torch.arange(2))


def test_the_exact_predictor_is_bayes_rule():
    space = SPACES[1]
    for name in TOKENS:
        process = build(name, space)
        table = ExactPredictor(space, process).table(0.5)
        law = corrupted_law(space, process, 0.5)
        joint = space.p0[:, None] * law
        assert torch.allclose(law[space.support()].sum(-1), torch.ones(len(space.support()), dtype=torch.float64))
        for y in (joint.sum(0) > 0).nonzero()[:, 0].tolist()[::3]:
            for i in range(space.length):
                for v in range(space.size):
                    here = space.decode(torch.arange(len(space.p0)))[:, i] == v
                    assert abs(table[y, i, v] - joint[here, y].sum() / joint[:, y].sum()) < 1e-12


def test_the_standard_error_of_a_ratio_agrees_with_the_bootstrap():
    rng = Rng([3])
    counts = 20 + (rng.uniform(300)[0] * 40).floor()
    totals = counts * 5 + rng.normal(300)[0] * counts.sqrt() * 3
    mean, error = ratio(totals, counts)
    assert math.isclose(mean, totals.sum().item() / counts.sum().item())
    picks = Rng(range(4000), stream=1).integers(torch.full((4000, 300), 300))
    again = (totals[picks].sum(-1) / counts[picks].sum(-1)).std().item()
    assert abs(error / again - 1) < 5 / math.sqrt(2 * 4000) + 1 / math.sqrt(300)  # of the bootstrap, and of linearising


def test_the_standard_error_of_few_texts_of_one_length_is_that_of_their_mean():
    totals = torch.tensor([1.0, 4.0, 2.5]).double()
    mean, error = ratio(totals, torch.ones(3))
    assert mean == pytest.approx(2.5) and error == pytest.approx(totals.std().item() / 3**0.5)


def test_one_text_has_no_standard_error():
    mean, error = ratio(torch.tensor([6.0]), torch.tensor([3]))
    assert mean == 2 and math.isnan(error)
