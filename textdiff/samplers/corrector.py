"""Corrector sweeps: noise a few positions of a finished text, and draw them again.

Going up from x0 to level u with fresh noise and back down by an exact step leaves p(x0) as it is (the pair (x0, x_u) is
drawn from its own conditionals, a Gibbs chain); with one position this is Gibbs sampling by the predictor's conditionals.
A trained network's conditionals need not belong to any joint law, so no stationary law is claimed for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, State, Step
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng
from textdiff.samplers.ancestral import improved
from textdiff.samplers.edit import marginal

MOST_SWEEPS = 1_000_000


def corrected(step: Step) -> Step:
    """`step` for the rows that go down; for those that go up from level 0, corruption with fresh noise."""

    def both_ways(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        up = (s > state.t).any(-1, keepdim=True)
        if not up.any():
            return step(state, s, predictor=predictor, process=process, rng=rng)
        x = torch.where(up, process.corrupt(state.x, s, process.noise(state.x, s, rng=rng)), state.x)
        if up.all():
            return replace(state, x=x, t=s)
        rng.rewind()  # the others draw as if alone
        after = step(state, torch.where(up, state.t, s), predictor=predictor, process=process, rng=rng)
        return replace(after, x=torch.where(up, x, after.x), t=torch.where(up, s, after.t))

    return both_ways


def sweep_levels(n: Tensor, moves: int) -> Iterator[Tensor]:
    """Up to one position of n (B,) and down again, `moves` times, (B, 1)."""
    up = torch.where(n > 0, 1 / n.double().clamp(min=1), 0.0)[:, None]
    for _ in range(moves):
        yield up
        yield torch.zeros_like(up)


def gibbs(sweeps: float = 1.0) -> Step:
    """Single edits with correction; `sweeps` passes over the text follow the first (`sweep_levels`)."""
    if not 0 <= sweeps <= MOST_SWEEPS:  # nan, too
        raise AskedError(f"sweeps is {sweeps}; it must be a number of passes over the text, from 0 to {MOST_SWEEPS}")
    masks, edits = improved(), marginal()

    def one(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        step = edits if process.sketch(state.x) is None else masks
        return step(state, s, predictor=predictor, process=process, rng=rng)

    return corrected(one)
