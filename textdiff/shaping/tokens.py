"""Predictor -> predictor: what may be said, and how boldly.

Each wrapper shapes the logits of the positions that the query asks for, and hands the query on.  The order is the
order of wrapping, and it matters: ban first, then the temperature, then the nucleus, so that the nucleus is one of the
law that is drawn from,

    nucleus(tempered(banned(predictor, ids), 0.8), 0.95)

Bans and sets are exact (the model conditioned on them, position by position); temperature, nucleus and top-k change the law.
Orders go by the law before a nucleus, top-k or a temperature of nearly 0: what is left of a law that these have cut says how
few tokens were kept, and not how sure the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from textdiff.core.contracts import OfLogits, Prediction, Query, TokenPrediction, spread
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Normal, ValuePredictor
from textdiff.core.schedules import Schedule

# What comes out is a prediction of the kind that went in: any, or one of tokens.
P = TypeVar("P", bound=Prediction)
T = TypeVar("T", bound=TokenPrediction)


def shaped(
    predictor: Callable[[Query], T], shape: OfLogits, ranked: bool = False, alike: bool = False
) -> Callable[[Query], T]:
    """`predictor` with `shape` applied to its logits; with `ranked` orders go by the law before.

    `alike` says that `shape` looks at the logits alone, so that equal laws stay equal.
    """

    def predict(query: Query) -> T:
        return predictor(query).map(shape, ranked, alike)

    return predict


COLDEST, HOTTEST = 1e-30, 1e30  # temperatures between which no logit becomes infinite
SURE = 0.02  # a temperature at which a law is sure of one token nearly everywhere


def tempered(predictor: Callable[[Query], T], temperature: float) -> Callable[[Query], T]:
    """Logits divided by `temperature` > 0; 0 is the limit, all the mass on the likeliest token (the first of equals).

    Up to `SURE` orders go by the law before.
    """
    if not 0 <= temperature < float("inf"):
        raise AskedError(f"temperature is {temperature}; it must be a number from 0 (the likeliest token) upwards")
    if 0 < temperature < COLDEST or temperature > HOTTEST:
        raise AskedError(
            f"temperature is {temperature}, by which float32 numbers cannot be divided; pass 0 (the likeliest token), or a number "
            f"from {COLDEST:g} to {HOTTEST:g}"
        )
    if temperature == 1:
        return predictor

    def shape(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        if temperature > 0:
            return logits / temperature
        mode = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, mode, 0.0)

    return shaped(predictor, shape, ranked=temperature <= SURE, alike=True)


def guided(predictor: Callable[[Query], P], scale: float, untold: Callable[[Any], Any]) -> Callable[[Query], P]:
    """Classifier-free guidance (Ho and Salimans, 2022): log q ∝ log q(·) + scale·(log q(·|condition) − log q(·)).

    `untold` takes the condition's content away.  1 is the predictor as it is, 0 the predictor without the condition; other
    scales cost two evaluations, and what either side excludes stays excluded.
    """
    if not -float("inf") < scale < float("inf"):
        raise AskedError(f"guidance is {scale}; it must be a number, 1 for none")
    if scale == 1:
        return predictor

    def predict(query: Query) -> P:
        alone = predictor(replace(query, condition=untold(query.condition)))
        return alone if scale == 0 else predictor(query).towards(alone, scale)

    return predict


# (x_t (B, …), t, condition) -> ∇ log p(y | x_t), like x_t; of tokens with respect to their one-hot vectors, (B, L, V)
Gradient = Callable[[Tensor, Tensor, Any], Tensor]


def gradient_of(log_probability: Callable[[Tensor, Tensor, Any], Tensor], tokens: int | None = None) -> Gradient:
    """The gradient of a classifier's log p(y | x_t) (B,), (x_t, t, condition) -> (B,), by one backward pass.

    With `tokens`, the number V of them, the classifier reads one-hot vectors (B, L, V) in the place of ids.
    """

    def gradient(x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone() if tokens is None else torch.nn.functional.one_hot(x_t.clone(), tokens).float()
            x.requires_grad_()
            said = condition.clone() if isinstance(condition, Tensor) else condition  # inference tensors are not saved
            (slope,) = torch.autograd.grad(log_probability(x, t.clone(), said).sum(), x)
        return slope

    return gradient


def steered(predictor: ValuePredictor, gradient: Gradient, scale: float, schedule: Schedule) -> ValuePredictor:
    """Classifier guidance of values (Dhariwal and Nichol, 2021): ε̂ − scale·β̄·∇ log p(y | x_t), so x̂0 + scale·(β̄²/ᾱ)·∇.

    At scale 1 an exact predictor becomes that of p(x0 | x_t, y).
    """
    _check_scale(scale)

    def predict(query: Query) -> Normal:
        x_t, t, condition = query.x_t, query.t, query.condition
        prediction = predictor(query)
        alpha, beta = schedule(t)
        reach = torch.where(alpha > 0, beta.square() / alpha, 0.0)  # where nothing is left of x0, x_t says nothing of y
        shift = scale * spread(reach, x_t).to(x_t.dtype) * gradient(x_t, t, condition)
        return replace(prediction, mean=prediction.mean + shift)

    return predict


def steered_tokens(predictor: Callable[[Query], T], gradient: Gradient, scale: float) -> Callable[[Query], T]:
    """Classifier guidance of tokens, to first order (Grathwohl et al., 2021; Nisonoff et al., 2024):

        log q_i(v) += scale · (∂/∂x_{i,v} − ∂/∂x_{i,x_i}) log p(y | x_t)

    of which the second part is the same for all v and drops out.  Exact at scale 1 for a classifier that is log-linear in
    the one-hot text, one position at a time.  What the prediction excludes stays excluded, whatever the classifier says.
    """
    _check_scale(scale)

    def predict(query: Query) -> T:
        x_t, t, condition = query.x_t, query.t, query.condition
        slope = gradient(x_t, t, condition)  # (B, L, V)

        def shape(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
            steeper = logits + scale * slope[rows, positions].to(logits.dtype)
            return torch.where(logits == -torch.inf, logits, steeper)  # −inf + inf would be nan

        return predictor(query).map(shape)

    return predict


def _check_scale(scale: float) -> None:
    if not -float("inf") < scale < float("inf"):
        raise AskedError(f"guidance is {scale}; it must be a number, 0 for none")


def pinned(predictor: Callable[[Query], P], x0: Tensor, where: Tensor) -> Callable[[Query], P]:
    """`predictor` with x0 known at `where`, which x_t hides all the same: inpainting by replacement of known regions."""

    def predict(query: Query) -> P:
        return predictor(query).pin(x0, where)

    return predict


def nucleus(predictor: Callable[[Query], T], top_p: float) -> Callable[[Query], T]:
    """The smallest set of likeliest tokens with a mass of at least `top_p` in (0, 1], the one that crosses it included."""
    if not 0 < top_p <= 1:
        raise AskedError(f"top_p is {top_p}; it must lie in (0, 1], 1 keeps every token")
    if top_p == 1:
        return predictor

    def shape(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        mass = ordered.double().softmax(-1)
        before = mass.cumsum(-1) - mass
        cut = (before >= top_p) & (torch.arange(logits.shape[-1], device=logits.device) > 0)
        return logits.masked_fill(torch.zeros_like(cut).scatter(-1, index, cut), -torch.inf)

    return shaped(predictor, shape, ranked=True, alike=True)


def top_k(predictor: Callable[[Query], T], k: int) -> Callable[[Query], T]:
    """The k ≥ 1 likeliest tokens (equals at the edge stay)."""
    if k < 1:
        raise AskedError(f"top_k is {k}; it must be at least 1")

    def shape(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        least = logits.topk(min(k, logits.shape[-1]), -1).values[:, -1:]
        return logits.masked_fill(logits < least, -torch.inf)

    return shaped(predictor, shape, ranked=True, alike=True)


def banned(predictor: Callable[[Query], T], ids: Tensor | Sequence[int]) -> Callable[[Query], T]:
    """Without the tokens `ids` (k,)."""
    never = torch.as_tensor(ids, dtype=torch.long)
    if not len(never):
        return predictor

    def shape(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        without = logits.new_zeros(logits.shape[-1]).index_fill(0, never.to(logits.device), -torch.inf)
        return logits + without  # a sum is cheaper than a fill

    return shaped(predictor, shape, alike=True)


def allowed(
    predictor: Callable[[Query], T], table: Tensor | Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Query], T]:
    """Only tokens that `table` allows: (L, V) bool, or a function of (rows (n,), positions (n,)) that gives (n, V) bool.

    A position of a table without any allowed token is a ValueError here.  Where the network allows none of the tokens
    that the table does, that position's draw fails.
    """
    if callable(table):
        look = table
    else:
        empty = (~table.any(-1)).nonzero()[:, 0].tolist()
        if empty:
            raise AskedError(f"no token is allowed at position {empty[0]}; allow at least one, or leave the table out")
        stored = table

        def look(rows: Tensor, positions: Tensor) -> Tensor:
            return stored[positions]

    return shaped(predictor, lambda logits, rows, positions: logits.masked_fill(~look(rows, positions), -torch.inf))
