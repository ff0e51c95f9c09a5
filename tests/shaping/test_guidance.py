"""Laws of guidance: on spaces where the conditional law is known, the guided predictor has it."""

from __future__ import annotations

import pytest
import torch
from normals import Data

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, Normal
from textdiff.core.schedules import get_schedule
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.samplers.ancestral import improved
from textdiff.samplers.edit import marginal
from textdiff.shaping.tokens import banned, gradient_of, guided, steered, steered_tokens
from textdiff.verify.chains import chain_law
from textdiff.verify.spaces import ExactPredictor, Space, corrupted_law, total_variation
from textdiff.verify.tokens import build, sequence

# -- values ---------------------------------------------------------------------------------------------------------------

PLANE = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.7, 0.0]], dtype=torch.float64)  # the classifier reads y = A x0 + noise
SEEN, NOISE = torch.tensor([1.5, -0.4], dtype=torch.float64), 0.5


def normal_classifier(data: Data, schedule):
    """log p(y | x_t) of y ~ N(A x0, NOISE²) and what p(x0 | y) is."""

    def log_probability(x_t, t, condition):
        alpha, beta = schedule(t)
        values, axes = torch.linalg.eigh(data.covariance)
        noisy = alpha.square() * values + beta.square()  # (B, D)
        mean = data.predictor(schedule)(Query(x_t, t)).mean @ PLANE.T
        left = axes @ torch.diag_embed(values * beta.square() / noisy) @ axes.T  # Cov(x0 | x_t)
        law = torch.distributions.MultivariateNormal(mean, PLANE @ left @ PLANE.T + NOISE**2 * torch.eye(2))
        return law.log_prob(condition)

    precision = torch.linalg.inv(data.covariance)
    covariance = torch.linalg.inv(precision + PLANE.T @ PLANE / NOISE**2)
    mean = covariance @ (precision @ data.mean + PLANE.T @ SEEN / NOISE**2)
    return log_probability, Data(mean, torch.linalg.cholesky(covariance))


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_classifier_guidance_of_scale_1_is_the_conditional_posterior_mean(name):
    data, schedule = Data(), get_schedule(name)
    log_probability, conditioned = normal_classifier(data, schedule)
    x = data.draw(5)
    t = torch.tensor([[0.01], [0.2], [0.5], [0.8], [0.97]], dtype=torch.float64)
    predictor = steered(data.predictor(schedule), gradient_of(log_probability), 1.0, schedule)
    found = predictor(Query(x, t, condition=SEEN.expand(5, -1))).mean
    torch.testing.assert_close(found, conditioned.predictor(schedule)(Query(x, t)).mean, rtol=1e-7, atol=1e-8)


def test_a_scale_counts_the_classifier_as_often():
    data, schedule = Data(), get_schedule("cosine")
    log_probability, _ = normal_classifier(data, schedule)
    x, t = data.draw(3), torch.full((3, 1), 0.5, dtype=torch.float64)
    means = [
        steered(data.predictor(schedule), gradient_of(log_probability), scale, schedule)(
            Query(x, t, condition=SEEN)
        ).mean
        for scale in (0.0, 1.0, 3.0)
    ]
    torch.testing.assert_close(means[0], data.predictor(schedule)(Query(x, t)).mean)
    torch.testing.assert_close(means[2] - means[0], 3 * (means[1] - means[0]))


def test_where_nothing_is_left_of_the_data_or_nothing_hidden_the_mean_stays():
    schedule, data = get_schedule("flow"), Data()
    x, t = data.draw(2), torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    predictor = steered(data.predictor(schedule), lambda x_t, t, condition: 1e3 * torch.ones_like(x_t), 2.0, schedule)
    torch.testing.assert_close(predictor(Query(x, t)).mean, data.predictor(schedule)(Query(x, t)).mean)


def test_gradients_are_taken_of_images_in_inference_mode():
    x, t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.full((2, 1, 1, 1), 0.5).double()
    network = torch.nn.Conv2d(3, 1, 3)
    with torch.inference_mode():
        gradient = gradient_of(lambda x, t, y: (network(x) * t * y[:, None, None, None]).sum((1, 2, 3)))
        predictor = steered(lambda query: Normal.point(query.x_t), gradient, 1.0, get_schedule("flow"))
        found = predictor(Query(x.clone(), t, condition=torch.tensor([1.0, -2.0]))).mean
    exact = torch.autograd.grad(network(leaf := x.clone().requires_grad_()).sum(), leaf)[0]
    torch.testing.assert_close(found[0], x[0] + 0.25 * exact[0])  # β̄²/ᾱ = ½, and t = ½
    torch.testing.assert_close(found[1], x[1] - 0.5 * exact[1])


# -- tokens ---------------------------------------------------------------------------------------------------------------


def product(length: int, size: int) -> Space:
    """Independent positions."""
    single = [Space.random(1, size, seed=k).p0[:size] for k in range(length)]
    space = Space.random(length, size)
    texts = space.decode(space.support())
    p = torch.stack([single[i][texts[:, i]] for i in range(length)]).prod(0)
    return Space(length, size, torch.zeros_like(space.p0).index_put((space.support(),), p))


def log_linear(space: Space, seed: int = 0) -> tuple[torch.Tensor, Space]:
    """Weights w (L, V + 1) of log p(y | x0) = Σ_i w_i(x0_i) + constant, and the law p(x0 | y)."""
    w = torch.nn.functional.pad(
        torch.randn(space.length, space.size, generator=torch.Generator().manual_seed(seed)), (0, 1)
    )
    texts = space.decode(torch.arange(len(space.p0)))
    p = space.p0 * w.double()[torch.arange(space.length), texts].sum(-1).exp()
    return w.double(), Space(space.length, space.size, p / p.sum())


def classifier(w):
    return gradient_of(lambda x, t, condition: (x * w).flatten(1).sum(-1), tokens=w.shape[1])


@pytest.mark.parametrize(("name", "step"), [("mask", improved()), ("mask", marginal()), ("uniform", improved())])
def test_first_order_guidance_by_a_log_linear_classifier_is_exact_where_positions_are_independent(name, step):
    space = product(3, 3)
    w, aim = log_linear(space)
    process = build(name, space)
    predictor = steered_tokens(ExactPredictor(space, process), classifier(w), 1.0)
    start = aim.p0 @ corrupted_law(aim, process, 1.0)
    if name == "mask":
        law, _ = chain_law(
            space, process, step, sequence(PROCESSES[name], SAMPLERS["improved"], 3, None), predictor, start
        )
        assert total_variation(law, aim.p0) < 1e-6  # the gradient is float32
    level = 0.7
    exact = ExactPredictor(aim, process).table(level)
    codes = (corrupted_law(aim, process, level).sum(0) > 0).nonzero()[:, 0]
    x_t = space.decode(codes)
    found = (
        predictor(Query(x_t, torch.full(x_t.shape, level, dtype=torch.float64)))
        .logits()
        .softmax(-1)
        .view(*x_t.shape, -1)
    )
    free = (x_t == space.size) if name == "mask" else torch.ones_like(x_t, dtype=torch.bool)
    assert (found - exact[codes])[free].abs().max() < 1e-6


@pytest.mark.parametrize("name", ["mask", "replacement"])
def test_first_order_guidance_is_exact_for_a_single_hidden_position_of_any_law(name):
    space = Space.random(3, 3) if name == "mask" else Space.random(1, 4)
    w, aim = log_linear(space)
    process, level = build(name, space), 1 / space.length
    predictor = steered_tokens(ExactPredictor(space, process), classifier(w), 1.0)
    exact = ExactPredictor(aim, process).table(level)
    codes = (corrupted_law(aim, process, level).sum(0) > 0).nonzero()[:, 0]
    x_t = space.decode(codes)
    found = (
        predictor(Query(x_t, torch.full(x_t.shape, level, dtype=torch.float64)))
        .logits()
        .softmax(-1)
        .view(*x_t.shape, -1)
    )
    hidden = x_t == space.size if name == "mask" else torch.ones_like(x_t, dtype=torch.bool)
    assert hidden.any() and (found - exact[codes])[hidden].abs().max() < 1e-6


LOGITS = torch.tensor([[[0.0, -torch.inf, 1.0, 2.0], [-torch.inf, 0.5, 0.5, -torch.inf]]])


def table(logits):
    def predict(query):
        x_t, at, condition = query.x_t, query.at, query.condition
        prediction = Categorical.from_logits(logits if condition is None else condition, x_t)
        if at is None:
            return prediction
        where = torch.zeros_like(x_t, dtype=torch.bool)
        where[at] = True
        return prediction.select(where)

    return predict


@pytest.mark.parametrize("scale", [-2.0, 0.5, 100.0])
def test_what_the_predictor_excludes_stays_excluded_whatever_the_classifier_says(scale):
    x_t, t = torch.tensor([[1, 3]]), torch.ones(1, 2)
    slope = torch.tensor([[[0.1, torch.inf, -0.3, 0.2], [torch.inf, 0.4, -0.4, 0.0]]])
    slope[0, 1, 3] = torch.nan  # of the token that stands there, which is excluded as well
    logits = steered_tokens(table(LOGITS), lambda *_: slope, scale)(Query(x_t, t)).logits()
    assert torch.equal(logits == -torch.inf, LOGITS[0] == -torch.inf) and not logits.isnan().any()
    torch.testing.assert_close(logits[1, 1] - logits[1, 2], torch.tensor(0.8 * scale))
    assert (logits.softmax(-1).sum(-1) - 1).abs().max() < 1e-6


def test_guidance_is_read_where_it_is_asked():
    x_t, t = torch.tensor([[1, 3]]), torch.ones(1, 2)
    slope = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0))
    predictor = steered_tokens(table(LOGITS), lambda *_: slope, 1.0)
    at = (torch.tensor([0]), torch.tensor([1]))
    torch.testing.assert_close(predictor(Query(x_t, t, at=at)).logits(), predictor(Query(x_t, t)).logits()[1:])


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale):
    for make in (lambda: steered_tokens(table(LOGITS), lambda *_: 0, scale),
                 lambda: steered(table(LOGITS), lambda *_: 0, scale, get_schedule("flow"))):  # fmt: skip
        with pytest.raises(ValueError, match="0 for none"):
            make()


# -- classifier-free ------------------------------------------------------------------------------------------------------


def test_classifier_free_guidance_extrapolates_the_mean_of_values_and_keeps_its_deviation():
    def predictor(query):
        x_t, condition = query.x_t, query.condition
        return Normal(x_t + (0 if condition is None else condition), torch.tensor(0.3))

    x, told = torch.arange(6.0).view(2, 3), torch.tensor([[1.0], [-2.0]])
    for scale in (0.0, 0.5, 1.0, 4.0):
        prediction = guided(predictor, scale, lambda condition: None)(Query(x, torch.ones(2, 1), condition=told))
        torch.testing.assert_close(prediction.mean, x + scale * told)
        assert prediction.deviation == torch.tensor(0.3)


def test_classifier_free_guidance_of_an_exact_predictor_is_classifier_guidance():
    """ε(told) − ε(untold) is −β̄ ∇ log p(y | x_t)."""
    data, schedule, scale = Data(), get_schedule("cosine"), 2.5
    log_probability, conditioned = normal_classifier(data, schedule)

    def predictor(query):
        x_t, t, condition = query.x_t, query.t, query.condition
        return (data if condition is None else conditioned).predictor(schedule)(Query(x_t, t))

    x, t = data.draw(4), torch.tensor([[0.1], [0.4], [0.7], [0.9]], dtype=torch.float64)
    free = guided(predictor, scale, lambda condition: None)(Query(x, t, condition=SEEN)).mean
    steady = steered(data.predictor(schedule), gradient_of(log_probability), scale, schedule)(
        Query(x, t, condition=SEEN)
    ).mean
    torch.testing.assert_close(free, steady, rtol=1e-7, atol=1e-8)


def test_guidance_0_is_the_predictor_without_the_condition_whatever_the_condition_excludes():
    told = torch.tensor([[[0.3, -torch.inf, -torch.inf, 1.0], [-torch.inf, 0.2, 0.1, 0.0]]])
    x_t, t = torch.tensor([[1, 3]]), torch.ones(1, 2)
    prediction = guided(table(LOGITS), 0.0, lambda condition: None)(Query(x_t, t, condition=told))
    assert torch.equal(prediction.logits(), table(LOGITS)(Query(x_t, t)).logits())


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0])
def test_classifier_free_guidance_excludes_what_either_side_excludes_and_is_never_nan(scale):
    told = torch.tensor([[[0.3, -torch.inf, -torch.inf, 1.0], [-torch.inf, 0.2, 0.1, 0.0]]])
    x_t, t = torch.tensor([[1, 3]]), torch.ones(1, 2)
    prediction = guided(table(LOGITS), scale, lambda condition: None)(Query(x_t, t, condition=told))
    q = prediction.logits().softmax(-1)
    assert not q.isnan().any()
    assert (q > 0).tolist() == [[True, False, False, True], [False, True, True, False]]
    a, b = told[0].softmax(-1), LOGITS[0].softmax(-1)
    for row, v, w in ((0, 0, 3), (1, 1, 2)):
        odds = (a[row, v] / a[row, w]) ** scale * (b[row, v] / b[row, w]) ** (1 - scale)
        torch.testing.assert_close(q[row, v] / q[row, w], odds)


def test_bans_hold_under_guidance():
    x_t, t = torch.tensor([[1, 3]]), torch.ones(1, 2)
    predictor = steered_tokens(banned(table(LOGITS), [2]), lambda *_: torch.full((1, 2, 4), 50.0), 1.0)
    assert (predictor(Query(x_t, t)).logits()[:, 2] == -torch.inf).all()
