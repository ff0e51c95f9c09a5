"""Unmasking in an order that the state's own distribution decides (method §8).

Positions are ranked by a statistic of q_i(· | x_t), never by the token just drawn: that rule, usual elsewhere, is biased
even with perfect marginals.  With one position a step every order here is exact for the mask process.

The entropy-bounded step (Ben-Hamu et al., 2025) takes positions in increasing order of entropy H_i for as long as

    Σ H_i − max H_i ≤ γ                                                                                               (1)

which bounds the information that drawing them independently loses; always at least one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import OfLogits, Predictor, Process, State, Step
from textdiff.core.errors import AskedError
from textdiff.core.levels import count
from textdiff.core.predictions import predict
from textdiff.core.rng import Rng, order_to_ranks


def minus_maximum(log_q: Tensor, *_: Tensor) -> Tensor:
    """−max_v log q(v)."""
    return -log_q.amax(-1)


def minus_margin(log_q: Tensor, *_: Tensor) -> Tensor:
    """−(q of the likeliest token − q of the next)."""
    top = log_q.topk(2, dim=-1).values.exp()
    return top[:, 1] - top[:, 0]


def entropy_nats(log_q: Tensor, *_: Tensor) -> Tensor:
    """−Σ q log q, with 0·log 0 = 0 (three times as fast as torch.special.entr, which takes the logarithm again)."""
    return -log_q.exp().mul_(log_q.clamp(min=torch.finfo(log_q.dtype).min)).sum(-1)


def ordered(statistic: OfLogits, gamma: float | None = None) -> Step:
    """Unmask the positions where `statistic` is smallest: as many as s asks for, or as (1) allows with `gamma` (nats)."""

    def step(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        sketch = process.sketch(state.x)
        if sketch is None:
            raise AskedError("unmasking in order needs the mask process, where x_t shows which positions are open")
        open_ = state.free & (sketch < 0)
        moving = open_.any(-1) if gamma is not None else process.moves(state.t, s)
        if not moving.any():
            return replace(state, t=s if gamma is None else torch.where(open_, state.t, 0.0))
        where = open_ & moving[:, None]
        prediction = predict(state, where, predictor=predictor, process=process).by_token()
        score = prediction.statistic(statistic)
        m, n = count(state.t, state.free), state.free.sum(-1).clamp(min=1)
        place = (order_to_ranks(torch.where(where, score.double(), torch.inf), where) * m[:, None]).floor()
        if gamma is None:
            left = count(s, state.free)
        else:
            sorted_, index = torch.where(where, score.double(), torch.inf).sort(-1)
            spent = torch.where(sorted_ < torch.inf, sorted_, 0.0).cumsum(-1) - sorted_.clamp(max=1e9)
            left = m - torch.where(moving, (where.gather(-1, index) & (spent <= gamma)).sum(-1).clamp(min=1), 0)
            s = torch.where(state.free, (left / n)[:, None], 0.0)
        chosen = where & (place < (m - left)[:, None])
        prediction = prediction.select(chosen, known=state.x)
        x = prediction.draw(rng=rng)
        weight = state.log_weight + prediction.log_weight(x)
        return replace(state, x=x, t=s, x0=x, forwards=state.forwards + moving, log_weight=weight)

    return step


def confidence() -> Step:
    """The position whose likeliest token is surest comes first."""
    return ordered(minus_maximum)


def margin() -> Step:
    """The position with the largest gap between its two likeliest tokens comes first."""
    return ordered(minus_margin)


def entropy() -> Step:
    """The position of least entropy comes first."""
    return ordered(entropy_nats)


def entropy_bounded(gamma: float = 0.1) -> Step:
    """Several positions a step while the joint-entropy bound (1) stays under `gamma` nats."""
    if not gamma >= 0:  # nan, too
        raise AskedError(f"gamma is {gamma}; the entropy bound must be at least 0 nats")
    return ordered(entropy_nats, gamma)
