"""The one sampling loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, State, Step, spread
from textdiff.core.rng import Rng


def sample(
    given: Tensor,
    free: Tensor,
    levels: Iterable[Tensor | float],
    step: Step,
    *,
    predictor: Predictor,
    process: Process,
    rng: Rng,
    condition: Any = None,
    start: Tensor | None = None,
    level: Tensor | float = 1.0,
) -> Iterator[State]:
    """The states of a batch from the prior to the end of `levels`, the first one before any step.

    With `start` (like x) the first state is not the prior at level 1 but this x_t at `level`, a number or (B, 1).

    given (B, L) tokens (or other data, contracts.py), free (B, L) bool; each of `levels` a number or (B, 1), decreasing
    unless the step says otherwise.
    Positions that are not free are at level 0 throughout and come out bit-identical to `given`.  A row that a step leaves
    as it is (same level, same text, no forward) has not moved on in its stream of draws either.
    """
    x, first = process.prior(given, free, rng=rng), 1.0 if start is None else level
    if start is not None:
        x = torch.where(spread(free, x), start, x)
    state = State(
        x=x,
        t=free.double() * spread(torch.as_tensor(first, dtype=torch.float64, device=x.device).flatten(), free),
        given=given,
        free=free,
        condition=condition,
        x0=x,
        forwards=torch.zeros(len(x), dtype=torch.long, device=x.device),
        log_weight=torch.zeros(len(x), dtype=torch.float64, device=x.device),
    )
    rng.advance(torch.ones_like(state.forwards, dtype=torch.bool))
    yield state
    for level in levels:
        proposed = torch.as_tensor(level, dtype=torch.float64, device=x.device).flatten()
        s = torch.where(free, spread(proposed, free), 0.0)
        before, state = state, step(state, s, predictor=predictor, process=process, rng=rng)
        changed = (state.t != before.t).flatten(1).any(-1) | (state.x != before.x).flatten(1).any(-1)
        rng.advance(changed | (state.forwards != before.forwards))
        yield state


def halted(step: Step, gone: Callable[[], Tensor]) -> Step:
    """`step` for the rows that go on; a row that is `gone()`, (B,) bool, stays as it stands, and costs no forward any more.

    It becomes a row in which everything is given.  A row that is gone once stays gone.
    """

    def then(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        stays = gone()
        if stays.any():
            goes = state.free & ~spread(stays, state.free)
            state = replace(
                state,
                t=torch.where(goes, state.t, 0.0),
                given=torch.where(spread(goes, state.x), state.given, state.x),
                free=goes,
            )
            s = torch.where(goes, s, 0.0)
        return step(state, s, predictor=predictor, process=process, rng=rng)

    return then
