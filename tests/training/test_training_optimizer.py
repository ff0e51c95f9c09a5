"""The optimiser's groups and rates, and the chance in a step of training."""

from __future__ import annotations

import pytest
import torch
from tables import Table, process_of, texts

from textdiff.core.contracts import Query
from textdiff.core.predictions import positions_of
from textdiff.core.rng import Rng
from textdiff.training.loss import corrupted, guessed, weighted_nll
from textdiff.training.optimizer import Muon, build, orthogonal, rate
from textdiff.training.sections import Optimizer


def test_the_rate_rises_from_its_first_step_stays_and_falls_to_0():
    """Step k of 4 of the warm-up has k/4 of the rate, and the last 40 % of 20 steps fall evenly."""
    rates = [rate(step, 20, 4, 0.4) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:13] == [1.0] * 9
    assert rates[12:] == pytest.approx([1 - k / 8 for k in range(9)])
    assert rate(0, 20, 0, 0.0) == rate(19, 20, 0, 0.0) == 1.0


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_matrices_alone_decay_and_embeddings_have_their_rate(name):
    network = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    optimizer = build(network, Optimizer(name=name, lr=0.1, muon_lr=0.2, embedding_lr=0.3, weight_decay=0.5))
    told = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert told[id(network[0].weight)] == (0.3, 0.0)
    assert told[id(network[1].weight)] == (0.1 if name == "adamw" else 0.2, 0.5)
    assert {told[id(p)] for p in (network[1].bias, network[2].weight, network[2].bias)} == {(0.1, 0.0)}
    assert len(told) == len(list(network.parameters()))


def test_matrices_step_together_as_pytorch_s_muon_lets_them_step_alone():
    """The reference rounds to bfloat16, three digits of a step; with our iteration in bfloat16 no more is left than that."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4), (5, 5)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]

    def after(made):
        parameters = [torch.nn.Parameter(one.clone()) for one in start]
        optimizer = made(parameters)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        return parameters

    theirs = after(lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.3))
    for ours in (
        after(lambda p, d=d: Muon(p, dtype=d, lr=0.1, weight_decay=0.3)) for d in (torch.float32, torch.bfloat16)
    ):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_singular_values_come_near_to_one_and_directions_stay():
    matrices = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1)).double()
    coefficients = (3.4445, -4.7750, 2.0315)
    together = orthogonal(matrices, coefficients, 5, 1e-7)
    for one, alone in zip(together, matrices, strict=True):
        u, _, vh = torch.linalg.svd(alone, full_matrices=False)
        values = u.mT @ one @ vh.mT
        assert (values - values.diagonal().diag()).abs().max() < 1e-9
        assert ((values.diagonal() > 0.5) & (values.diagonal() < 1.5)).all()
        torch.testing.assert_close(one, orthogonal(alone[None], coefficients, 5, 1e-7)[0])


@pytest.mark.parametrize("share", [0.1, 0.8])
def test_a_draft_is_given_to_that_share_of_the_rows(share):
    predictor, process, x0 = Table(4), process_of("replacement"), texts(2000, 4)
    t = torch.ones(x0.shape, dtype=torch.float64)
    guessed(predictor, process, x0, t, None, share, torch.arange(2000))
    rows = predictor.asked[0][0].unique()
    assert abs(len(rows) / 2000 - share) < 4.5 * (share * (1 - share) / 2000) ** 0.5


def test_the_noise_of_an_example_does_not_repeat_the_draw_of_its_level():
    """The level of example k is draw 0 of seed k; were it the first draw of the noise, too, a position's rank would go by it."""
    seeds, free = torch.arange(4000), torch.ones(4000, 2, dtype=torch.float64)
    level = Rng(seeds).uniform(1)[:, 0]
    x0 = texts(4000, 2)
    x_t = corrupted(process_of("mask"), x0, free / 2, seeds)  # one of two
    first = (x_t != x0)[:, 0]
    assert abs(first.double().mean() - 0.5) < 0.04
    assert abs(first[level < 0.5].double().mean() - 0.5) < 0.06


@pytest.mark.parametrize("name", ["mask", "replacement"])
def test_the_loss_is_the_weighted_cross_entropy_at_the_positions_of_weight(name):
    process, x0 = process_of(name), texts(6, 5)
    t = torch.full(x0.shape, 0.6, dtype=torch.float64)
    x_t = process.corrupt(x0, t, process.noise(x0, t, rng=Rng(range(6))))
    predictor = Table(5)
    weights = process.weights(x_t, t)
    nll = predictor(Query(x_t, t, at=positions_of(weights > 0))).nll(x0)
    expected = torch.where(weights > 0, weights * nll, 0.0).sum()
    assert torch.allclose(weighted_nll(predictor, process, x0, x_t, t).double(), expected.double(), rtol=1e-4)
