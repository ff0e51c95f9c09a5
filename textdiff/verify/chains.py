"""The law of a whole chain: the step functions that ship, run through every outcome of every draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, State, Step
from textdiff.core.rng import Rng
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.spaces import Space, corrupted_law, total_variation

FORWARDS = 64  # more than any number of forwards in one step


def chain_law(
    space: Space,
    process: Process,
    step: Step,
    levels: Iterable[Any],
    predictor: Predictor,
    start: Tensor,
    weighed: bool | Tensor = False,
) -> tuple[Tensor, Tensor]:
    """The law over codes after the last level, and the mean forwards, of the shipped step functions run from `start`.

    `start` (codes,) is a law or, as (K, codes), several that are walked together; the results are (codes,) or (K, codes), and
    (,) or (K,).  Where `weighed`, () or (K,), holds, every path counts with its probability times exp(`State.log_weight`),
    and the sum need not be 1.
    """
    n = space.n
    counts = n + 1
    law = torch.zeros(*start.shape, counts, dtype=torch.float64)  # by code and whole count of the level
    law[..., n] = start
    law = law.reshape(-1, start.shape[-1] * counts)
    forwards, previous = torch.zeros(len(law), dtype=torch.float64), 1.0
    weighs = torch.as_tensor(weighed).expand(len(law))[:, None]
    for level in levels:
        s_level = float(level)
        items = (law > 1e-15).any(0).nonzero()[:, 0]
        gains: list[Tensor] = []

        def f(
            codes: Tensor, rng: Rng, level: float = s_level, previous: float = previous, gains: list[Tensor] = gains
        ) -> Tensor:
            x = space.decode(codes // counts)
            free = space.free_of(x)
            whole = (codes % counts).double()[:, None] / n
            t = torch.where(free, torch.where(whole == round(previous * n) / n, previous, whole), 0.0)
            none = torch.zeros(len(x), dtype=torch.long)
            state = State(x=x, t=t, given=x, free=free, condition=None, x0=x, forwards=none, log_weight=none.double())
            s = torch.where(free, torch.tensor(level, dtype=torch.float64), 0.0)
            after = step(state, s, predictor=predictor, process=process, rng=rng)
            gains.append(after.log_weight.exp())
            m = (after.t.amax(-1) * n).round().long()
            return (space.code(after.x) * counts + m) * FORWARDS + after.forwards

        index, outcome, weight = enumerate_draws(f, items, space.length)
        weight = weight * law[:, items[index]]
        forwards += weight @ (outcome % FORWARDS).double()
        weight = torch.where(weighs, weight * torch.cat(gains), weight)
        law = torch.zeros_like(law).index_add_(1, outcome // FORWARDS, weight)
        previous = s_level
    return law.view(*start.shape, counts).sum(-1), forwards.view(start.shape[:-1])


@dataclass(frozen=True)
class Result:
    """What a sampler ends with on a space."""

    distance: float  # total variation from p0, begun at the exact law of level 1
    from_prior: float  # the same, begun at the prior that ships
    astray: float  # probability of a text with [MASK], or with another token than the given one
    forwards: float


def run(space: Space, process: Process, predictor: Predictor, step: Step, levels: list[float]) -> Result:
    """The law that a sampler ends with on a space, from the exact law at level 1 and from the shipped prior."""
    exact_start = space.p0 @ corrupted_law(space, process, 1.0)

    def prior(codes: Tensor, rng: Rng) -> Tensor:
        x = space.decode(codes)
        return space.code(process.prior(x, space.free_of(x), rng=rng))

    index, outcome, weight = enumerate_draws(prior, space.support(), space.length)
    shipped = torch.zeros_like(space.p0).index_add_(0, outcome, weight * space.p0[space.support()][index])
    (law, other), (forwards, _) = chain_law(
        space, process, step, levels, predictor, torch.stack([exact_start, shipped])
    )
    x = space.decode(torch.arange(len(law)))
    astray = (x == space.size).any(-1) | ((x != space.decode(space.support()[:1])) & ~space.free_of(x)).any(-1)
    return Result(
        total_variation(law, space.p0), total_variation(other, space.p0), float(law[astray].sum()), float(forwards)
    )
