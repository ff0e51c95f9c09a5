"""Laws of every sampler with every process it serves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tables import IDS, MASK, VOCABULARY, Table, process_of, some_free, texts

from textdiff.core.contracts import Query, State
from textdiff.core.levels import count, count_levels, even_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.processes import TOKENS
from textdiff.samplers import SAMPLERS
from textdiff.samplers.corrector import gibbs, sweep_levels
from textdiff.samplers.edit import by_count, marginal
from textdiff.samplers.order import entropy_bounded, entropy_nats, minus_margin, minus_maximum, ordered
from textdiff.samplers.particles import resampled
from textdiff.shaping.tokens import nucleus, tempered, top_k
from textdiff.verify.enumeration import enumerate_draws

LENGTH = 9
CASES = [(s, p) for s, entry in SAMPLERS.items() for p in entry.processes if p in TOKENS]
SOME = {"refresh": {"share": 0.5}, "entropy-bounded": {"gamma": 3.0}}

every_case = pytest.mark.parametrize(("sampler", "process"), CASES)


def levels_of(sampler: str, process: str, n: torch.Tensor, steps: int | None):
    """The levels that a pipeline would walk."""
    if process == "uniform":
        return list(even_levels(steps or LENGTH))
    walk = list(count_levels(n, None if sampler == "entropy-bounded" else steps))
    return walk + (list(sweep_levels(n, 3)) if sampler == "gibbs" else [])


def run(
    sampler, process, rows, *, steps=4, predictor=None, given=None, free=None, seeds=None, step=None
) -> list[State]:
    """All states of the batch made of `rows` of one example of 8 rows."""
    rows = torch.as_tensor(rows)
    given = (texts(8, LENGTH, 1) if given is None else given)[rows]
    free = (some_free(8, LENGTH, 1) if free is None else free)[rows]
    step = step or attribute(SAMPLERS[sampler].path)(**SOME.get(sampler, {}))
    return list(
        sample(
            given,
            free,
            levels_of(sampler, process, free.sum(-1), steps),
            step,
            predictor=predictor or Table(LENGTH),
            process=process_of(process),
            rng=Rng(torch.arange(8)[rows] if seeds is None else seeds),
        )
    )


ALL = list(range(8))


@every_case
@pytest.mark.parametrize("steps", [1, 4, None])
def test_given_text_survives_every_sampler(sampler, process, steps):
    given, free = texts(8, LENGTH, 1), some_free(8, LENGTH, 1)
    given[~free & (torch.arange(LENGTH) % 2 == 0)] = 0  # a special id may be given
    for state in run(sampler, process, ALL, steps=steps, given=given):
        assert torch.equal(state.x[~free], given[~free])
        assert torch.equal(state.x0[~free], given[~free])
        assert (state.t[~free] == 0).all()


@every_case
@pytest.mark.parametrize("steps", [1, 4, None])
def test_the_end_is_text_at_level_0(sampler, process, steps):
    free = some_free(8, LENGTH, 1)
    last = run(sampler, process, ALL, steps=steps)[-1]
    assert (last.t == 0).all()
    assert torch.isin(last.x[free], VOCABULARY).all()  # no [MASK], no special


@every_case
@pytest.mark.parametrize("steps", [1, pytest.param(4, marks=pytest.mark.slow), None])
def test_a_row_alone_is_the_same_row_in_a_batch(sampler, process, steps):
    together = run(sampler, process, ALL, steps=steps)[-1]
    for part in ([3], [6, 1, 7]):
        alone = run(sampler, process, part, steps=steps)[-1]
        assert torch.equal(alone.x, together.x[part])
        assert torch.equal(alone.forwards, together.forwards[part])


@every_case
def test_a_second_run_with_the_same_generator_draws_something_else(sampler, process):
    rng = Rng(range(8))
    arguments = dict(predictor=Table(LENGTH), process=process_of(process))
    given, free = texts(8, LENGTH, 1), torch.ones(8, LENGTH, dtype=torch.bool)
    step = attribute(SAMPLERS[sampler].path)(**SOME.get(sampler, {}))
    ends = [
        list(sample(given, free, levels_of(sampler, process, free.sum(-1), 4), step, rng=rng, **arguments))[-1].x
        for _ in range(2)
    ]
    assert not (ends[0] == ends[1]).all(-1).any()


@every_case
def test_rows_with_nothing_to_do_are_never_sent_to_the_predictor(sampler, process):
    free = some_free(8, LENGTH, 1)
    free[2] = free[5] = False
    free[0] = torch.arange(LENGTH) == 4
    table = Table(LENGTH)
    states = run(sampler, process, ALL, predictor=table, free=free)
    spent = torch.zeros(8, dtype=torch.long)
    for rows, positions in table.asked:
        assert free[rows, positions].all()
        spent[rows.unique()] += 1
    assert spent[2] == spent[5] == 0
    assert torch.equal(spent, states[-1].forwards)
    assert table.calls == spent.max()  # a call in which no row moves is not made


@every_case
def test_a_step_that_changes_nothing_costs_no_forward(sampler, process):
    table = Table(LENGTH)
    given, free = texts(8, LENGTH, 1), some_free(8, LENGTH, 1)
    step = attribute(SAMPLERS[sampler].path)(**SOME.get(sampler, {}))
    levels = [1.0, 1.0] + levels_of(sampler, process, free.sum(-1), 2) + [0.0, 0.0]
    states = list(sample(given, free, levels, step, predictor=table, process=process_of(process), rng=Rng(range(8))))
    if sampler != "entropy-bounded":  # that one moves whatever it is told
        assert states[2].forwards.sum() == 0
    assert torch.equal(states[-3].x, states[-1].x)
    assert torch.equal(states[-3].forwards, states[-1].forwards)


@every_case
def test_states_are_not_changed_after_they_were_given_out(sampler, process):
    step = attribute(SAMPLERS[sampler].path)(**SOME.get(sampler, {}))
    given, free = texts(8, LENGTH, 1), some_free(8, LENGTH, 1)
    copies, states = [], []
    levels = levels_of(sampler, process, free.sum(-1), 3)
    for state in sample(
        given, free, levels, step, predictor=Table(LENGTH), process=process_of(process), rng=Rng(range(8))
    ):
        states.append(state)
        copies.append((state.x.clone(), state.t.clone(), state.x0.clone(), state.forwards.clone()))
    for state, copy in zip(states, copies, strict=True):
        for now, then in zip((state.x, state.t, state.x0, state.forwards), copy, strict=True):
            assert torch.equal(now, then)


def degenerate(kind: str):
    """Predictors at the edge: sure of one token, narrow sets, enormous logits."""

    def predictor(query):
        x_t, at = query.x_t, query.at
        rows, positions = positions_of(torch.ones_like(x_t, dtype=torch.bool)) if at is None else at
        token = x_t[rows, positions]
        logits = torch.full((len(rows), IDS), -torch.inf)
        if kind == "sure of one token":
            logits[:, 5] = 0.0
        elif kind == "sure of what stands":
            logits[torch.arange(len(rows)), torch.where(token == MASK, 3, token)] = 0.0
        elif kind == "sure at even positions":
            logits[:, VOCABULARY] = torch.where(positions % 2 == 0, -torch.inf, 0.0)[:, None]
            logits[:, 8] = 0.0
        elif kind == "huge":
            logits[:, VOCABULARY] = 1e30 * (VOCABULARY % 3).float()
        elif kind == "nearly nothing elsewhere":
            logits[:, VOCABULARY] = -80.0
            logits[:, 2] = 0.0
        return Categorical.from_logits(logits, x_t, (rows, positions))

    return predictor


KINDS = ("sure of one token", "sure of what stands", "sure at even positions", "huge", "nearly nothing elsewhere")


@every_case
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_predictors_are_no_trouble(sampler, process, kind):
    free = some_free(8, LENGTH, 1)
    steps = (2, None)[KINDS.index(kind) % 2]
    states = run(sampler, process, ALL, predictor=degenerate(kind), steps=steps)
    assert torch.isin(states[-1].x[free], VOCABULARY).all()
    assert all(not state.t.isnan().any() for state in states)
    if kind == "sure of one token" and process == "mask":
        assert (states[-1].x[free] == 5).all()


# -- single edits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [marginal, by_count])
@pytest.mark.parametrize("steps", [None, 4, 2])
def test_k_edits_change_at_most_k_positions_and_exactly_k_where_they_can(make, steps):
    free = some_free(8, LENGTH, 1)
    states = run("edit", "replacement", ALL, steps=steps, step=make())
    for before, after in itertools.pairwise(states):
        edits = count(before.t, free) - count(after.t, free)
        assert torch.equal((before.x != after.x).sum(-1), edits)


@pytest.mark.parametrize(("m", "edits"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_edits_by_count_are_a_uniform_part_of_a_draft_with_exactly_m_differences(m, edits):
    """By walking through every draw, against the sum over all drafts and all parts of their differences."""
    x, q = torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.7, 0.05]]).double()
    free = torch.ones_like(x, dtype=torch.bool)
    base = 3 ** torch.arange(3)

    def predictor(query):
        return Categorical.from_logits(q.log().expand(len(query.x_t), -1, -1), query.x_t)

    def end(items, rng):
        rows = x.expand(len(items), -1)
        none = torch.zeros(len(rows), dtype=torch.long)
        level = torch.full(rows.shape, m / 3, dtype=torch.float64)
        state = State(rows, level, rows, free.expand(len(rows), -1), None, rows, none, none.double())
        process = process_of("replacement", torch.arange(3))
        return (by_count()(state, level - edits / 3, predictor=predictor, process=process, rng=rng).x * base).sum(-1)

    _, outcome, weight = enumerate_draws(end, torch.zeros(1), 3)
    found = torch.zeros(27, dtype=torch.float64).index_add_(0, outcome, weight)
    expected = torch.zeros(27, dtype=torch.float64)
    for draft in itertools.product(range(3), repeat=3):
        differing = [i for i in range(3) if draft[i] != x[0, i]]
        if len(differing) == m:
            for part in itertools.combinations(differing, edits):
                y = [draft[i] if i in part else int(x[0, i]) for i in range(3)]
                expected[(torch.tensor(y) * base).sum()] += math.prod(q[i, draft[i]] for i in range(3)) / math.comb(
                    m, edits
                )
    assert torch.allclose(found, expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("make", [marginal, by_count])
def test_a_sure_prediction_leaves_the_text_alone(make):
    states = run("edit", "replacement", ALL, step=make(), predictor=degenerate("sure of what stands"))
    assert all(torch.equal(state.x, states[0].x) for state in states)


def test_the_improved_replacement_step_draws_a_draft_with_exactly_m_differences():
    free = some_free(8, LENGTH, 1)
    states = run("improved", "replacement", ALL)
    for before, after in itertools.pairwise(states):
        moved = (before.t != after.t).any(-1)
        assert torch.equal((after.x0 != before.x).sum(-1)[moved], count(before.t, free)[moved])


# -- orders -------------------------------------------------------------------------------------------------------------


def test_confidence_is_the_largest_probability_and_the_margin_a_difference_of_the_two_largest():
    q = torch.tensor([[0.5, 0.1, 0.4, 0.0], [0.05, 0.9, 0.05, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert torch.allclose((-minus_maximum(q.log())).exp(), torch.tensor([0.5, 0.9, 1.0]))
    assert torch.allclose(-minus_margin(q.log()), torch.tensor([0.1, 0.85, 1.0]))


def test_entropy_takes_nothing_times_its_logarithm_for_0():
    q = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
    assert torch.allclose(entropy_nats(q.log()), torch.tensor([1.5 * math.log(2), 0.0]))


@pytest.mark.parametrize("cut", [None, "temperature", "nucleus", "top-k"])
@pytest.mark.parametrize("statistic", [minus_maximum, minus_margin, entropy_nats])
def test_positions_are_unmasked_in_the_order_of_the_states_distribution(statistic, cut):
    """Also where each position is sure of its likeliest token, since the others were cut away."""
    table = Table(LENGTH)
    free = some_free(8, LENGTH, 1)
    sure = {"temperature": tempered(table, 0), "nucleus": nucleus(table, 1e-6), "top-k": top_k(table, 1)}
    states = run("confidence", "mask", ALL, steps=None, step=ordered(statistic), predictor=sure.get(cut, table))
    for before, after in itertools.pairwise(states):
        score = table(Query(before.x, before.t)).statistic(statistic)
        masked = before.x == MASK
        for row in masked.any(-1).nonzero()[:, 0].tolist():
            (chosen,) = (before.x[row] != after.x[row]).nonzero()[:, 0].tolist()
            assert score[row, chosen] == score[row][masked[row]].min()
            if cut is not None:
                assert after.x[row, chosen] == table(Query(before.x, before.t)).mode()[row, chosen]
    assert (states[-1].forwards == free.sum(-1)).all()


def test_entropy_bounded_with_gamma_0_unmasks_one_position_a_step():
    free = some_free(8, LENGTH, 1)
    bounded = run("entropy-bounded", "mask", ALL, step=entropy_bounded(0.0))
    single = run("entropy", "mask", ALL, steps=None)
    for one, other in zip(bounded, single, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(count(one.t, free), count(other.t, free))


def test_entropy_bounded_without_a_bound_takes_one_forward():
    table = Table(LENGTH)
    states = run("entropy-bounded", "mask", ALL, step=entropy_bounded(math.inf), predictor=table)
    assert table.calls == 1
    assert (states[-1].forwards == 1).all()
    assert (states[1].t == 0).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0, 6.0])
def test_entropy_bounded_steps_keep_the_bound_and_use_it(gamma):
    table = Table(LENGTH)
    states = run("entropy-bounded", "mask", ALL, step=entropy_bounded(gamma), predictor=table)
    for before, after in itertools.pairwise(states):
        entropies = table(Query(before.x, before.t)).statistic(
            lambda log_q, *_: torch.special.entr(log_q.exp()).sum(-1)
        )
        for row in range(8):
            open_ = entropies[row][before.x[row] == MASK].sort().values
            taken = int((before.x[row] != after.x[row]).sum())
            allowed = int((open_.cumsum(0) - open_ <= gamma + 1e-5).sum())
            assert taken == allowed or not len(open_)


@pytest.mark.parametrize("process", ["replacement", "uniform"])
def test_orders_are_refused_where_nothing_shows_what_is_open(process):
    with pytest.raises(ValueError, match="mask process"):
        run("confidence", process, ALL)


@pytest.mark.parametrize("make", [lambda: entropy_bounded(-1.0), lambda: gibbs(-1.0)])
def test_options_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match=r"at least 0|from 0 to"):
        make()


# -- corrector ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_each_corrector_move_changes_at_most_two_positions_and_costs_one_forward(process):
    free = some_free(8, LENGTH, 1)
    states = run("gibbs", process, ALL, steps=None)
    sweeps = states[-7:]
    for start, end in zip(sweeps[::2], sweeps[2::2], strict=False):
        assert torch.equal(end.forwards - start.forwards, torch.ones(8, dtype=torch.long))
        assert ((start.x != end.x).sum(-1) <= (1 if process == "mask" else 2)).all()
        assert (end.t == 0).all()
    for up in sweeps[1::2]:
        assert (count(up.t, free) == 1).all()


def test_rows_may_go_up_while_others_go_down():
    free = torch.ones(2, LENGTH, dtype=torch.bool)
    down = [[m / LENGTH for m in range(LENGTH - 1, -1, -1)] + [0.0] * 4]
    first = down[0][:LENGTH] + [1 / LENGTH, 0.0] * 2  # has finished, and corrects
    second = [1.0] * 2 + down[0][:LENGTH] + [1 / LENGTH, 0.0]  # waits, walks, corrects
    levels = [torch.tensor([[a], [b]], dtype=torch.float64) for a, b in zip(first, second, strict=True)]

    def walk(rows, levels):
        arguments = dict(
            predictor=Table(LENGTH), process=process_of("replacement"), rng=Rng(torch.tensor([4, 5])[rows])
        )
        return list(sample(texts(2, LENGTH)[rows], free[rows], levels, gibbs(), **arguments))[-1].x

    together = walk([0, 1], levels)
    assert torch.equal(walk([0], [v[:1] for v in levels]), together[:1])
    assert torch.equal(walk([1], [v[1:] for v in levels][2:]), together[1:])


# -- particles -----------------------------------------------------------------------------------------------------------


def weighed(weights: torch.Tensor, seed: int = 0) -> State:
    """What is left after resampling rows that are their own numbers, each group of 4 with these log-weights."""
    rows = len(weights)
    x = torch.arange(rows)[:, None]
    level = torch.full((rows, 1), 0.5, dtype=torch.float64)
    state = State(x, level, x, level > 0, None, x, x[:, 0], weights)
    step = resampled(lambda state, s, **_: state, 4)
    return step(state, level, predictor=None, process=None, rng=Rng(torch.arange(rows) + seed))


def test_particles_are_resampled_in_proportion_to_their_weights_and_go_on_with_the_mean():
    groups, share = 3000, torch.tensor([0.85, 0.1, 0.05, 0.0]).double()
    after = weighed((7 * share).log().repeat(groups))
    picked = torch.bincount(after.x[:, 0] % 4, minlength=4) / (4 * groups)
    assert (abs(picked - share) < 4.5 * (share * (1 - share) / (4 * groups)).sqrt() + 1e-12).all()
    assert torch.equal(after.x[:, 0] // 4, torch.arange(4 * groups) // 4) and torch.equal(after.x, after.x0)
    assert torch.allclose(after.log_weight.exp(), torch.full((4 * groups,), 7 / 4).double())


def test_particles_that_still_count_are_left_alone():
    weights = torch.tensor([1.0, 0.7, 0.4, 0.3]).double().log()  # effective number 3.3 of 4
    after = weighed(weights)
    assert after.x[:, 0].tolist() == [0, 1, 2, 3] and torch.equal(after.log_weight, weights)
