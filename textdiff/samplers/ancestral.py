"""Draw x̂0 ~ q(x0 | x_t), then bridge to x_s (method §1, §2).

With `fresh` this is the baseline of the field, with the process's own bridge the improved sampler, with `refresh` what
lies between.  Where the process can sketch (mask), the noise comes first and the query names only the positions
that the bridge uncovers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.contracts import UNREAD, Bridge, Predictor, Process, State, Step, spread
from textdiff.core.predictions import predict
from textdiff.core.rng import Rng


def ancestral(bridge: Bridge = bridges.improved) -> Step:
    """A step through `bridge`.  One forward for each row that moves (for mask: that uncovers something)."""

    def step(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        moving = process.moves(state.t, s)
        if not moving.any():
            return replace(state, t=s)
        sketch, weight = process.sketch(state.x), state.log_weight
        if sketch is None:
            where = state.free & spread(moving, state.free)
            prediction = predict(state, where, predictor=predictor, process=process)
            x0 = prediction.draw(rng=rng)
            weight = weight + prediction.log_weight(x0)
            x = bridge(process, x0, state.x, state.t, s, rng=rng)
        else:
            x = bridge(process, sketch, state.x, state.t, s, rng=rng)
            # What is hidden for good is open, too, and is not written.
            where = (x == UNREAD) & state.free & spread(moving, x)
            x0 = state.x
            if where.any():
                prediction = predict(state, where, predictor=predictor, process=process)
                x0 = prediction.draw(rng=rng)
                weight = weight + prediction.log_weight(x0)
            x = torch.where(x == UNREAD, x0, x)
        x = torch.where(spread(moving, x), x, state.x)
        forwards = state.forwards + where.flatten(1).any(-1)
        return replace(state, x=x, t=s, x0=x0, forwards=forwards, log_weight=weight)

    return step


def baseline() -> Step:
    """A step that predicts x0 and corrupts the draft again with fresh noise."""
    return ancestral(bridges.fresh)


def improved() -> Step:
    """A step that predicts x0 and re-uses the noise that x_t shows.  Exact for the mask process, one position at a time."""
    return ancestral(bridges.improved)


def refreshed(share: float = 0.2) -> Step:
    """Improved, with the noise of a `share` in [0, 1] of the positions drawn anew at each step.

    Under the mask process a share that rounds to one position is the improved sampler itself (`ByRank.renew`).
    """
    return ancestral(bridges.refresh(share))


def ddpm(eta: float = 1.0, last: str = "posterior") -> Step:
    """The Gaussian chain: DDPM at eta 1, DDIM at eta 0; `last` as in `bridges.markov`."""
    return ancestral(bridges.markov(eta, last))
