"""The rows of processes of values: exact means and covariances of whole chains.

The data are a correlated Gaussian of two dimensions, and the processes affine in x0 and their noise, so that the posterior of x0
follows from the process's own `noise` and `corrupt`.  By the posterior mean alone a chain comes to p(x0) only as its steps grow
in number.  In one dimension nothing is approximate: a sampler that draws its draft is given the whole posterior, and a
sampler that follows the mean is given data of variance 0, where the mean is all that there is to know.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, Query, State, Step, spread
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Normal
from textdiff.core.rng import Rng
from textdiff.core.schedules import cosine
from textdiff.verify.normals import SIGNS, GaussianLaw, corrupted, expected_bound, moments
from textdiff.verify.rows import Asked, Row, construct
from textdiff.verify.tokens import sampler_line

STEPS = 20
DATA = GaussianLaw(
    torch.tensor([0.5, -0.3], dtype=torch.float64),
    torch.tensor([[1.0, 0.45], [0.45, 0.6]], dtype=torch.float64),
)
GIVEN = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)


def fade(x0: Tensor, t: Tensor) -> Tensor:
    """A degradation: x0 loses a share t of itself."""
    return (1 - spread(t, x0)) * x0


# What a process of values may be built from.
PARTS: dict[str, Any] = {
    "schedule": cosine(),
    "degrade": fade,
    "sigma": 0.5,
    "terminal": lambda given, *, rng: torch.zeros_like(given),
}


def with_steps(process: Process, steps: int = STEPS) -> Process:
    """The process with so many steps of its bound, where it has a field for them."""
    if dataclasses.is_dataclass(process) and any(f.name == "steps" for f in dataclasses.fields(process)):
        return dataclasses.replace(process, steps=steps)
    return process


def posterior(process: Process, data: GaussianLaw, drawn: bool = False) -> Predictor:
    """p(x0 | x_t) for x0 ~ data, by conditioning the joint law of x0 and x_t: its mean, or with `drawn` its deviations, too."""
    size = len(data.mean)

    @functools.cache
    def at(level: float) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of x_t, gain and deviation of x0."""

        def pair(rng: Rng) -> Tensor:
            x0 = data.draw(rng)
            return torch.cat([x0, corrupted(process, x0, level, rng)], -1)

        joint = moments(pair)
        across, own = joint.covariance[:size, size:], joint.covariance[size:, size:]
        gain = across @ torch.linalg.pinv(own, hermitian=True)
        rest = (data.covariance - gain @ across.T).diagonal().clamp(min=0).sqrt()
        return joint.mean[size:], gain, rest

    def predict(query: Query) -> Normal:
        x_t, t = query.x_t, query.t
        levels = t.amax(-1)
        mean, deviation = torch.zeros_like(x_t), torch.zeros_like(x_t)
        for level in torch.unique(levels).tolist():
            here = levels == level
            centre, gain, rest = at(level)
            mean[here] = data.mean + (x_t[here] - centre) @ gain.T
            deviation[here] = rest
        return Normal(mean, deviation) if drawn else Normal.point(mean)

    return predict


def ignorant(query: Query) -> Normal:
    """Predicts 0 everywhere: a sampler that asks it about given values gets other values."""
    x_t = query.x_t
    return Normal.point(torch.zeros_like(x_t))


def last(states: Iterator[State]) -> State:
    """The end of a chain."""
    *_, end = states
    return end


def run(
    process: Process,
    step: Step,
    steps: int,
    predictor: Predictor,
    given: Tensor,
    rng: Rng,
    draw: Callable[[Rng], Tensor] | None = None,
) -> tuple[Tensor, float]:
    """x0 (B, …) at the end of `steps` even levels, and the mean forwards; begun at x_1 of `draw(rng)`, or at the prior."""
    start = None if draw is None else corrupted(process, draw(rng), 1.0, rng)
    free = torch.ones(given.shape[:2], dtype=torch.bool)
    chain = sample(given, free, even_levels(steps), step, predictor=predictor, process=process, rng=rng, start=start)
    end = last(chain)
    return process.decode(end.x), float(end.forwards.double().mean())


def chain_law(
    process: Process,
    step: Step,
    steps: int,
    predictor: Predictor,
    size: int,
    draw: Callable[[Rng], Tensor] | None = None,
) -> tuple[GaussianLaw, float]:
    """The law of what the sampler ends with, and the forwards spent."""
    spent = []

    def f(rng: Rng) -> Tensor:
        given = torch.zeros(len(rng.keys), size, dtype=torch.float64)
        x, forwards = run(process, step, steps, predictor, given, rng, draw)
        spent.append(forwards)
        return x

    return moments(f), spent[-1]


def moved(process: Process, step: Step, given: Tensor, predictor: Predictor) -> float:
    """The largest change of what is given (B, L), the first half of each row."""
    free = torch.arange(given.shape[1]).expand(given.shape) >= given.shape[1] // 2
    rng = Rng(torch.arange(len(given)))
    end = last(sample(given, free, even_levels(3), step, predictor=predictor, process=process, rng=rng))
    return float((process.decode(end.x) - given)[~free].abs().max())


def distance(process: Process, end: GaussianLaw, data: GaussianLaw) -> float:
    """From p(x0), or from the law of x_t as t falls to 0 where that is nearer: what is left of the noise may stay in the end."""
    left = moments(lambda rng: corrupted(process, data.draw(rng), 1e-12, rng))
    return min(end.wasserstein(data), end.wasserstein(left))


def excess(process: Process, data: GaussianLaw, drawn: bool) -> float | None:
    """The bound minus the entropy and minus what the shipped prior costs, as it is not the law of x_1; None without a bound."""
    size = len(data.mean)
    predictor = posterior(process, data, drawn)
    one = torch.ones(1, dtype=torch.float64)
    try:
        bound = expected_bound(process, predictor, lambda _, rng: data.draw(rng), torch.zeros(1), one, SIGNS, size)
    except NotImplementedError:
        return None
    exact = moments(lambda rng: corrupted(process, data.draw(rng), 1.0, rng))

    def prior(rng: Rng) -> Tensor:
        given = torch.zeros(len(rng.keys), size, dtype=torch.float64)
        return process.prior(given, torch.ones_like(given, dtype=torch.bool), rng=rng)

    return bound - data.entropy - exact.divergence(moments(prior))


@functools.cache
def excesses(name: str) -> tuple[float | None, float]:
    """What the bound of a process exceeds the entropy by: with the posterior mean, and in one dimension by the whole posterior."""
    process = with_steps(construct(name, **PARTS))
    return excess(process, DATA, drawn=False), excess(process, DATA.first(), drawn=True) or 0.0


def check(asked: Asked) -> Row:
    """One sampler with a process of values."""
    process, step, line = with_steps(construct(asked.process, **PARTS)), asked.built(), sampler_line(asked.sampler)
    predictor = posterior(process, DATA)

    def far(steps: int, draw: Callable[[Rng], Tensor] | None = DATA.draw) -> tuple[float, float]:
        end, forwards = chain_law(process, step, steps, predictor, 2, draw)
        return distance(process, end, DATA), forwards

    one = DATA.first(0.0 if line.by_mean else 1.0)
    alone, _ = chain_law(process, step, 3, posterior(process, one, drawn=True), 1, one.draw)
    claim = asked.claim or ("in limit" if line.converges else "approximate")
    whole, forwards = far(STEPS)
    by_mean, by_posterior = excesses(asked.process)
    return Row(
        space="D=2",
        process=asked.process,
        sampler=asked.sampler,
        options=asked.shown(),
        steps=STEPS,
        claim=claim,
        total_variation=whole,
        shipped_prior=far(STEPS, None)[0],
        excess=by_mean,
        forwards=forwards,
        one_position=max(distance(process, alone, one), abs(by_posterior)),
        astray=moved(process, step, GIVEN, ignorant),
        finer=far(4 * STEPS)[0] if claim == "in limit" else None,
    )


def work(
    process: str, samplers: Sequence[str], full: bool, claim: str | None, named: bool
) -> Iterator[Callable[[], Row]]:
    """The rows of a process with those of `samplers` that serve it."""
    for sampler in samplers:
        if sampler_line(sampler).serves(process):
            yield functools.partial(check, Asked(process, sampler, {}, claim=claim))
