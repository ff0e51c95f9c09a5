"""The report on values and vectors: what it holds, what it catches, and the stand-ins for chance that it rests on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from textdiff import cli
from textdiff.core import bridges
from textdiff.core.contracts import Query
from textdiff.core.predictions import predict
from textdiff.core.rng import Rng
from textdiff.processes import of_data
from textdiff.samplers import SAMPLERS
from textdiff.samplers.ancestral import ancestral
from textdiff.verify import values, vectors
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.normals import FINE, SIGNS, GaussianLaw, affine, linear_predictor, moments
from textdiff.verify.rows import Asked, construct
from textdiff.verify.walk import verify

CONTINUOUS = of_data("values", "vectors")


def test_every_pair_is_checked_and_holds(monkeypatch):
    """Of the texts a smaller sample than is printed.  One test, since the rows take seconds."""
    monkeypatch.setattr(vectors, "ROWS", 1000)
    rows = [row for process in CONTINUOUS for row in verify(process=process)]
    assert [(row.process, row.sampler) for row in rows] == [
        (p, s) for p in CONTINUOUS for s, line in SAMPLERS.items() if line.serves(p)
    ]
    assert [row for row in rows if not row.ok] == []
    assert all(row.one_position < 1e-9 and row.astray == 0 for row in rows)
    assert {(row.process, row.sampler) for row in rows if row.claim == "in limit"} == {
        (p, s) for p in CONTINUOUS for s, line in SAMPLERS.items() if line.serves(p) and line.converges
    }
    for row in rows:  # limits are approached, and what is called approximate is
        assert row.total_variation > 1e-3
        if row.claim == "in limit" and row.process != "embedding":
            assert row.finer < 0.35 * row.total_variation
    far = {(row.process, row.sampler): row.total_variation for row in rows}
    assert far["gaussian", "baseline"] > 5 * far["gaussian", "improved"] > 25 * far["gaussian", "heun"]
    assert far["cold", "baseline"] > 8 * far["cold", "improved"]
    assert all((row.excess is None) == (row.process == "cold") for row in rows)  # bounds are above the entropy
    assert all(row.excess > 0 for row in rows if row.excess is not None)


# -- what is broken is caught ------------------------------------------------------------------------------------------------


def small_noise(process: Any, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """Forgets a tenth of the noise."""
    return process.corrupt(x0, s, 0.9 * process.recover(x0, x_t, t, rng=rng))


def late(process: Any, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
    """Recovers the noise at a level that x_t is not at."""
    return process.corrupt(x0, s, process.recover(x0, x_t, (t + s) / 2, rng=rng))


def no_pins(state: Any, s: Tensor, *, predictor: Any, process: Any, rng: Rng) -> Any:
    """Asks the predictor about what is given, too, and writes what it says."""
    x0 = predictor(Query(state.x, state.t)).draw(rng=rng)
    return replace(state, x=bridges.fresh(process, x0, state.x, state.t, s, rng=rng), t=s, x0=x0)


def half_way(state: Any, s: Tensor, *, predictor: Any, process: Any, rng: Rng) -> Any:
    """Draws every draft twice and takes the mean: too sure."""
    drafts = [predict(state, state.free, predictor=predictor, process=process).draw(rng=rng) for _ in range(2)]
    return replace(state, x=bridges.reuse(process, sum(drafts) / 2, state.x, state.t, s, rng=rng), t=s, x0=drafts[0])


@pytest.mark.parametrize("process", ["gaussian", "cold"])
@pytest.mark.parametrize("step", [ancestral(small_noise), ancestral(late), no_pins, half_way])
def test_a_broken_sampler_of_values_is_caught(process, step):
    row = values.check(Asked(process, "improved", {}, claim="approximate", step=step))
    assert not row.ok, row


@pytest.mark.parametrize("step", [ancestral(small_noise), ancestral(late), no_pins])
def test_a_broken_sampler_of_embedded_texts_is_caught(step, monkeypatch):
    monkeypatch.setattr(vectors, "ROWS", 200)
    row = vectors.check(Asked("embedding", "improved", {}, claim="approximate", step=step))
    assert not row.ok, row


def test_what_comes_to_no_limit_is_caught_when_it_claims_to():
    row = values.check(Asked("gaussian", "baseline", {}, claim="in limit"))
    assert not row.ok and replace(row, finer=None).ok and not replace(row, finer=None, claim="exact").ok


# -- asking ------------------------------------------------------------------------------------------------------------------


def test_one_process_or_one_sampler_alone():
    assert [(row.process, row.sampler) for row in verify(process="cold")] == [
        ("cold", "baseline"),
        ("cold", "improved"),
    ]
    (row,) = verify(process="gaussian", sampler="ddpm")
    assert (row.process, row.sampler, row.options) == ("gaussian", "ddpm", "eta=1.0 last=posterior")
    with pytest.raises(ValueError, match="'ddpm' does not serve process 'cold'"):
        list(verify(process="cold", sampler="ddpm"))
    with pytest.raises(ValueError, match="did you mean 'improved'"):
        list(verify(sampler="improve"))


def test_a_users_own_sampler_is_checked_where_its_process_is_named():
    (row,) = verify(process="gaussian", sampler="textdiff.samplers.ancestral:ddpm")
    assert row.ok and row.claim == "approximate"
    (row,) = verify(process="gaussian", sampler="textdiff.samplers.ancestral:ddpm", claim="exact")
    assert not row.ok


def test_the_command_prints_them_under_the_columns_of_the_tokens(capsys):
    assert cli.main(["verify", "--process", "gaussian", "--sampler", "improved"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ["D=2", "gaussian"] and "in limit" in line
    assert head.index("claim") == line.index("in limit")
    assert cli.main(["verify", "--process", "cold", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(record["ok"] for record in records) and sum("sampler" in record for record in records) == 2
    assert cli.main(["verify", "--process", "cold", "--sampler", "ddpm"]) == 2
    assert "does not serve process 'cold'" in capsys.readouterr().err


# -- the stand-ins -----------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_many_draws():
    def f(rng: Rng) -> Tensor:
        z = rng.normal(2)
        return torch.stack([z[:, 0] + 2 * z[:, 1], 1 - z[:, 1] + 0.5 * rng.normal(1)[:, 0]], -1)

    mean, covariance = moments(f)
    assert torch.equal(mean, torch.tensor([0.0, 1.0]).double())
    assert torch.allclose(covariance, torch.tensor([[5.0, -2.0], [-2.0, 1.25]]).double())
    drawn = f(Rng(range(20_000)))
    assert (abs(drawn.mean(0) - mean) < 5 * (covariance.diagonal() / 20_000).sqrt()).all()
    assert torch.allclose(drawn.T.cov(), covariance, atol=0.2)
    assert affine(lambda rng: rng.branch().normal(3, 2))[1].shape == (6, 3, 2)


@pytest.mark.parametrize(("make", "powers"), [(FINE, (2, 4)), (SIGNS, (2,))])
def test_nodes_integrate_powers_of_normals(make, powers):
    def mean(f: Any) -> float:
        _, value, weight = enumerate_draws(lambda item, rng: f(rng.normal(2)), torch.zeros(1), 1, make)
        return (value * weight).sum().item()

    for power in powers:
        assert abs(mean(lambda z, power=power: z[:, 0] ** power) - math.prod(range(1, power, 2))) < 1e-9
    assert abs(mean(lambda z: z[:, 0] * z[:, 1] + z[:, 1])) < 1e-12


def gaussian(mean: list[float], covariance: list[list[float]]) -> GaussianLaw:
    return GaussianLaw(torch.tensor(mean).double(), torch.tensor(covariance).double())


def test_the_distance_of_two_gaussians_is_the_known_one():
    law = gaussian([1.0, 2.0], [[2.0, 0.3], [0.3, 1.0]])
    mean, covariance = law
    assert law.wasserstein(law) < 1e-7
    assert abs(law.wasserstein(GaussianLaw(mean + 3, covariance)) - math.sqrt(18)) < 1e-12
    assert abs(gaussian([0.0], [[4.0]]).wasserstein(gaussian([1.0], [[1.0]])) - math.sqrt(1 + 1)) < 1e-12
    turned = torch.linalg.qr(covariance).Q @ covariance @ torch.linalg.qr(covariance).Q.T
    apart = [GaussianLaw(mean, c).wasserstein(GaussianLaw(mean, 4 * c)) for c in (covariance, turned)]
    assert abs(apart[0] - apart[1]) < 1e-9


def test_entropy_and_divergence_of_gaussians_are_those_of_torch():
    laws = gaussian([1.0, 2.0], [[2.0, 0.3], [0.3, 1.0]]), gaussian([0.5, 0.0], [[1.0, -0.2], [-0.2, 0.4]])
    theirs = [torch.distributions.MultivariateNormal(*law) for law in laws]
    assert laws[0].entropy == pytest.approx(theirs[0].entropy().item())
    assert laws[0].divergence(laws[1]) == pytest.approx(torch.distributions.kl_divergence(*theirs).item())


@pytest.mark.parametrize("drawn", [False, True])
def test_the_posterior_that_a_process_shows_is_the_one_of_its_schedule(drawn):
    process = construct("gaussian", schedule=values.PARTS["schedule"])
    x, t = torch.tensor([[0.4, -1.0], [2.0, 0.1], [0.0, 0.3]]).double(), torch.tensor([[0.2], [0.7], [0.7]]).double()
    shown = values.posterior(process, values.DATA, drawn)(Query(x, t.expand(3, 2)))
    known = linear_predictor(process.schedule, *values.DATA, drawn=drawn)(Query(x, t.expand(3, 2)))
    assert torch.allclose(shown.mean, known.mean) and torch.allclose(shown.deviation, known.deviation)


def test_the_posterior_of_embedded_texts_is_that_of_equal_norms():
    """log p(text | x_t) = log p(text) + α ⟨x_t, E(text)⟩/β² up to a constant, as all texts have one norm."""
    process, predictor, *_ = vectors.made("embedding")
    texts, p0 = vectors.TWO.decode(vectors.TWO.support()), vectors.TWO.p0[vectors.TWO.support()]
    x, t = Rng(range(4)).normal(2, 2), torch.tensor([0.3, 0.3, 0.6, 0.9]).double()[:, None].expand(4, 2)
    alpha, beta = (rate[:, :1] for rate in process.schedule(t))
    joint = (p0.log() + x.flatten(1) @ process.encode(texts).flatten(1).T * alpha / beta.square()).softmax(-1)
    expected = torch.einsum("bn,nlv->blv", joint, torch.nn.functional.one_hot(texts, 3).double())
    assert torch.allclose(predictor(Query(x, t)).logits().exp().view(4, 2, 3), expected)
