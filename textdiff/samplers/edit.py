"""Single edits: one position and a token that differs from what stands there (method §3).

    marginal rule  P(i, v) = q_i(v)/Σ_j d_j over v ≠ x_t,i      exact, as the true reverse step is p(x0_i = v | x_t)/m
    count rule     D with |D| = m by the conditional-Bernoulli recursion, then one i ∈ D uniformly, v ~ q_i without x_t,i;
                   biased (independent draws conditioned on their count are not the posterior), useful when the predictor
                   does not know the level

A step from count m to m′ makes k = m − m′ edits: without replacement by the marginal rule, a uniform subset of D by the
count rule; several at once pay the factorisation error.  If no position can change, the row stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, State, Step, TokenPrediction
from textdiff.core.levels import count
from textdiff.core.predictions import draw_differing, draw_other, log1mexp, predict
from textdiff.core.rng import Rng


def edit(rule: str) -> Step:
    """A step that edits by `rule`, "marginal" or "count".  One forward for each row that moves."""
    choose = {"marginal": _by_marginals, "count": _by_count}[rule]

    def step(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        moving = process.moves(state.t, s)
        if not moving.any():
            return replace(state, t=s)
        where = state.free & moving[:, None]
        prediction = predict(state, where, predictor=predictor, process=process)
        base = prediction.by_token()
        m = count(state.t, state.free)
        chosen = choose(base, state.x, where, m, m - count(s, state.free), rng)
        x = draw_other(base, state.x, chosen, rng=rng)
        return replace(state, x=x, t=s, x0=x, forwards=state.forwards + moving)

    return step


def _by_marginals(base: TokenPrediction, x: Tensor, where: Tensor, m: Tensor, edits: Tensor, rng: Rng) -> Tensor:
    """`edits` (B,) positions drawn without replacement in proportion to d_i, (B, L) bool; few d_i are ever computed."""

    def log_change(mask: Tensor) -> Tensor:
        return log1mexp(base.select(mask, known=x).log_prob(x)[0])

    return rng.successive(log_change, where, edits)


def _by_count(base: TokenPrediction, x: Tensor, where: Tensor, m: Tensor, edits: Tensor, rng: Rng) -> Tensor:
    """A uniform subset of `edits` (B,) of exactly m (B,) differing positions, (B, L) bool."""
    stay = torch.where(where, base.log_prob(x)[0], 0.0)
    return rng.subset(draw_differing(stay, m, m, rng=rng), edits)


def marginal() -> Step:
    """Edits by the marginal rule: exact for one edit a step."""
    return edit("marginal")


def by_count() -> Step:
    """Edits by the exact-count rule."""
    return edit("count")
