"""Laws of the steps that look twice, on data where the ODE's solution is known."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from normals import BLOBS, Data, everywhere

from textdiff.core.contracts import Query
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, Normal, positions_of
from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule
from textdiff.processes.embedding import embedding
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import SAMPLERS
from textdiff.samplers.ancestral import improved
from textdiff.samplers.second_order import amed, fit_amed, heun, two_looks


def walk(data, schedule, step, levels, x, **more):
    """All states from x at level 1."""
    told = {"predictor": data.predictor(schedule), "process": Gaussian(schedule), "rng": Rng(range(len(x)))}
    return list(sample(x, everywhere(x), levels, step, **{**told, "start": x, **more}))


def turning(t):
    """Variance preserving, and smooth at both ends."""
    return (math.pi / 2 * t.double()).cos(), (math.pi / 2 * t.double()).sin()


@pytest.mark.parametrize("schedule", [turning, get_schedule("flow")])
@pytest.mark.parametrize(("step", "order"), [(improved(), 1), (heun(), 2)])
def test_half_the_step_divides_the_error_by_2_or_by_4(schedule, step, order):
    data, x = Data(), Rng(range(16)).normal(3)
    aim = data.carried(x, schedule, 1.0, 0.0)
    errors = [(walk(data, schedule, step, even_levels(n), x)[-1].x - aim).norm().item() for n in (20, 40, 80, 160)]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(rate - order) < 0.25 for rate in rates), rates


@pytest.mark.parametrize("schedule", [turning, get_schedule("flow")])
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.2), (0.6, 0.5), (0.3, 0.7)])
def test_a_step_of_heun_is_the_trapezoid_rule_in_the_angle(schedule, t, s):
    """z_s = z_t − tan(Δ/2) (v_t + v_s), Δ = θ_t − θ_s, with v of the drafts at both ends: what DDIM is for one draft."""
    data, x = BLOBS, Rng(range(8)).normal(2)

    def turned(x, draft, level):
        a, b = schedule(torch.tensor(level, dtype=torch.float64))
        angle, radius = torch.atan2(b, a), torch.hypot(a, b)
        return x / radius, (x / radius * angle.cos() - draft) / angle.sin(), angle, radius

    def draft(x, level):
        return data.predictor(schedule)(Query(x, torch.full((8, 1), level, dtype=torch.float64))).mean

    z, v, there, _ = turned(x, draft(x, t), t)
    _, _, here, radius = turned(x, x, s)
    ddim = radius * (z * (there - here).cos() - v * (there - here).sin())
    _, v_s, _, _ = turned(ddim, draft(ddim, s), s)
    expected = radius * (z - ((there - here) / 2).tan() * (v + v_s))
    after = walk(data, schedule, heun(), [s], x, level=t)[-1].x
    assert torch.allclose(after, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt", "flow"])
def test_where_a_schedule_ends_in_pure_noise_the_first_step_is_as_good_as_any(name):
    schedule, x = get_schedule(name), Rng(range(64)).normal(2)
    aim = walk(BLOBS, schedule, heun(), even_levels(100), x)[-1].x
    two, one = (
        (walk(BLOBS, schedule, step, even_levels(n), x)[-1].x - aim).square().mean().sqrt()
        for step, n in ((heun(), 20), (improved(), 20))
    )
    assert two < one


def test_forwards_are_two_a_step_and_one_in_the_last():
    asked = []

    def spy(query):
        x_t, t = query.x_t, query.t
        asked.append(t.max().item())
        return Data().predictor(get_schedule("flow"))(Query(x_t, t))

    x = torch.zeros(3, 3, dtype=torch.float64)
    states = walk(Data(), get_schedule("flow"), heun(), [0.5, 0.5, 0.25, 0.0, 0.0], x, predictor=spy)
    assert [state.forwards.tolist() for state in states] == [[k] * 3 for k in (0, 2, 2, 4, 5, 5)]
    assert asked == [1.0, 0.5, 0.5, 0.25, 0.25]


def test_nothing_is_drawn():
    x, schedule = Rng(range(4)).normal(3), get_schedule("cosine")
    one, two = (walk(Data(), schedule, heun(), even_levels(4), x, rng=Rng([k] * 4))[-1].x for k in (1, 2))
    assert torch.equal(one, two)


def test_rows_at_levels_of_their_own_are_the_rows_alone():
    x, schedule = Rng(range(3)).normal(3), get_schedule("cosine")
    levels = [
        torch.tensor([[0.5], [0.7], [1.0]]),
        torch.tensor([[0.0], [0.2], [0.4]]),
        torch.tensor([[0.0], [0.0], [0.0]]),
    ]
    together = walk(Data(), schedule, heun(), levels, x)[-1]
    assert together.forwards.tolist() == [3, 5, 3]
    for k in range(3):
        alone = walk(Data(), schedule, heun(), [level[k : k + 1] for level in levels], x[k : k + 1])[-1]
        torch.testing.assert_close(alone.x, together.x[k : k + 1], rtol=1e-12, atol=1e-12)
        assert alone.forwards == together.forwards[k]


def test_a_row_that_stays_at_its_level_is_left_as_it_is():
    x, schedule = Rng(range(2)).normal(3), get_schedule("cosine")

    def spoilt(query):
        x_t, t = query.x_t, query.t
        prediction = Data().predictor(schedule)(Query(x_t, t))
        return Normal.point(prediction.mean.index_fill(0, torch.tensor(0), torch.nan))

    levels = [torch.tensor([[0.0], [0.3]])]
    states = walk(Data(), schedule, heun(), levels, x, predictor=spoilt, level=torch.tensor([[0.0], [0.6]]))
    assert torch.equal(states[1].x[0], x[0]) and states[1].forwards.tolist() == [0, 2]
    assert states[1].x[1].isfinite().all()


def test_what_is_given_stays_and_the_condition_is_told():
    given, free = Rng(range(2)).normal(3), torch.tensor([[True, False, True], [False, True, True]])

    def spy(query):
        x_t, t, condition = query.x_t, query.t, query.condition
        assert condition == "seven"
        assert torch.equal(x_t[~free], given[~free]) and (t[~free] == 0).all()
        return Data().predictor(get_schedule("flow"))(Query(x_t, t))

    told = {"predictor": spy, "process": Gaussian(get_schedule("flow")), "rng": Rng(range(2)), "condition": "seven"}
    for step in (heun(), amed([[1.0, 0.5, 0.7, 1.0], [0.5, 0.0, 0.3, 0.9]])):
        for state in sample(given, free, [0.5, 0.0], step, **told):
            assert torch.equal(state.x[~free], given[~free]) and torch.equal(state.x0[~free], given[~free])
            assert state.x.isfinite().all()


def test_images_are_walked_with_places_of_their_own_given():
    given, free = Rng(range(2)).normal(3, 2, 2), torch.tensor([[[True, False], [True, True]]]).expand(2, 1, 2, 2)

    def predictor(query):
        x_t, t = query.x_t, query.t
        assert (t.expand(2, 1, 2, 2) > 0).equal(free)
        return Normal.point(x_t.tanh())

    told = {"predictor": predictor, "process": Gaussian(get_schedule("cosine")), "rng": Rng(range(2))}
    for step in (heun(), amed([[1.0, 0.5, 0.7, 1.0], [0.5, 0.0, 0.3, 0.9]])):
        *_, end = sample(given, free, [0.5, 0.0], step, **told)
        assert end.x.shape == given.shape and end.x.isfinite().all()
        assert torch.equal(end.x[~free.expand_as(given)], given[~free.expand_as(given)])


def test_a_weight_of_0_is_ddim():
    x, schedule = Rng(range(4)).normal(3), get_schedule("cosine")
    plain = walk(Data(), schedule, improved(), [0.6, 0.0], x)[-1]
    again = walk(Data(), schedule, two_looks(lambda process, t, s: (t, 0 * t)), [0.6, 0.0], x)[-1]
    torch.testing.assert_close(again.x, plain.x)
    assert torch.equal(again.forwards, plain.forwards)


def test_text_is_walked_at_its_expected_embedding_and_ends_as_text():
    vocabulary, table = torch.tensor([1, 2, 4]), Rng(range(6)).normal(4)
    process, target = embedding(table, vocabulary, get_schedule("cosine")), torch.tensor([1, 4, 2, 1])

    drafts = []

    def predictor(query):
        x_t, at, previous = query.x_t, query.at, query.previous
        drafts.append(previous.dtype)
        rows, positions = positions_of(torch.ones(x_t.shape[:2], dtype=torch.bool)) if at is None else at
        logits = torch.full((len(rows), 6), -torch.inf, dtype=torch.float64)
        logits[:, vocabulary] = 2.0 * (vocabulary == target[positions][:, None]) + 0.1 * x_t[rows, positions][:, :3]
        known = torch.zeros(x_t.shape[:2], dtype=torch.long)
        return Categorical.from_logits(logits, known, (rows, positions))

    given, free = torch.zeros(2, 4, dtype=torch.long), torch.tensor([[True] * 4, [True, True, False, True]])
    told = {"predictor": predictor, "process": process, "rng": Rng(range(2))}
    *_, end = sample(given, free, even_levels(4), heun(), **told)
    assert torch.equal(end.x0, torch.where(free, target, 0)) and set(drafts[1:]) == {torch.long}
    assert torch.equal(process.decode(end.x)[free], end.x0[free]) and end.forwards.tolist() == [7, 7]


def test_the_table_names_it():
    assert SAMPLERS["heun"].processes == ("embedding", "gaussian")
    x = torch.zeros(1, 3, dtype=torch.float64)
    assert walk(Data(), get_schedule("flow"), attribute(SAMPLERS["heun"].path)(), [0.5, 0.0], x)[-1].forwards == 3


# -- mean-value steps -----------------------------------------------------------------------------------------------------


def fitted(schedule, levels, seed=0, **how):
    given = torch.zeros(256, 2, dtype=torch.float64)
    told = {"predictor": BLOBS.predictor(schedule), "process": Gaussian(schedule), "rng": Rng(range(seed, seed + 256))}
    return fit_amed(given, everywhere(given), levels, **told, **how)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param("linear", 3, marks=pytest.mark.slow),
        pytest.param("cosine", 5, marks=pytest.mark.slow),
        ("flow", 3),
    ],
)
def test_learned_points_are_nearer_the_path_than_ddim_and_heun_with_as_many_evaluations_or_more(name, steps):
    schedule, x = get_schedule(name), Rng(range(5000, 5512)).normal(2)  # noise that the table has not seen
    aim = walk(BLOBS, schedule, heun(), even_levels(100), x)[-1].x
    table = fitted(schedule, list(even_levels(steps)))

    def error(step, n, forwards):
        state = walk(BLOBS, schedule, step, even_levels(n), x)[-1]
        assert (state.forwards == forwards).all()
        return (state.x - aim).square().mean().sqrt().item()

    own = error(amed(table), steps, 2 * steps)
    assert own < 0.6 * error(heun(), steps + 1, 2 * steps + 1)
    assert own < 0.6 * error(improved(), 2 * steps, 2 * steps)


def test_a_second_look_in_the_last_step_helps():
    schedule, x = get_schedule("flow"), Rng(range(5000, 5512)).normal(2)
    aim, levels = walk(BLOBS, schedule, heun(), even_levels(100), x)[-1].x, list(even_levels(4))
    one, two = (
        (walk(BLOBS, schedule, amed(fitted(schedule, levels, last=last)), levels, x)[-1].x - aim).norm()
        for last in (False, True)
    )
    assert two < one


def test_the_table_of_points_is_plain_numbers_between_the_levels():
    table = fitted(get_schedule("flow"), [0.5, 0.0])
    assert json.loads(json.dumps(table)) == table
    assert [row[:2] for row in table] == [[1.0, 0.5], [0.5, 0.0]]
    assert all(s <= u <= t and u > 0 for t, s, u, _ in table)


def test_levels_that_a_table_does_not_hold_are_refused():
    x = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"from level 1 to 0\.4"):
        walk(Data(), get_schedule("flow"), amed([[1.0, 0.5, 0.7, 1.0], [0.5, 0.0, 0.2, 1.0]]), [0.4, 0.0], x)
