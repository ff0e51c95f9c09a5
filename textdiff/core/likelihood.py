"""Upper bounds on −log p(x0) by the path of a process (method §2, §3).

With the T steps 1 = t_T > … > t_0 = 0 that the process bounds (T = n whole counts for the exact-count processes),

    −log p(x0) ≤ KL(q(x_1 | x0) ‖ prior) + Σ_{j=1..T} E_{x_t} KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)),   t = t_j, s = t_{j−1}     (1)

Tight for the mask process iff the predictor is exact; loose for replacement, whose corrupted set is hidden (never compare
the two); the uniform process's bound depends on T, too.  All J levels of a text are stratified: one uniform level in each
of J equal parts of 1 … T, weighted T/J, which is unbiased for every J and has no level twice where J = T.

Few levels have a heavy tail.  Nominal 95 % intervals (`ratio`, ± 1.96 standard errors) from 200 texts with one level each
held the bound in 84 to 98 % of 200 repetitions, least often for the uniform process.  Where an interval matters, take more
levels a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, Query, spread
from textdiff.core.predictions import positions_of
from textdiff.core.rng import Rng


@dataclass(frozen=True)
class Terms:
    """The parts of (1) for B texts, in nats: what each of the N drawn steps adds to its text, weighted by T/J."""

    prior: Tensor  # (B,) KL(q(x_1 | x0) ‖ prior)
    text: Tensor  # (N,) whose step it is, 0 … B − 1
    step: Tensor  # (N,) j of (1), 1 … T; 1 is the last step of the chain, the decoder
    nats: Tensor  # (N,) float64

    def total(self) -> Tensor:
        """The estimate of the bound, (B,)."""
        return self.prior.index_add(0, self.text, self.nats)

    def decoder(self) -> Tensor:
        """What the last step adds, (B,); unbiased also where it is rarely drawn."""
        return torch.zeros_like(self.prior).index_add(0, self.text, torch.where(self.step == 1, self.nats, 0.0))

    def curve(self, steps: int) -> Tensor:
        """The mean over texts of what each of the steps 1 … T adds, (T,); 0 where a step was never drawn."""
        return torch.zeros(steps, dtype=torch.float64, device=self.nats.device).index_add(
            0, self.step - 1, self.nats / len(self.prior)
        )


def terms(
    x0: Tensor,
    free: Tensor,
    *,
    predictor: Predictor,
    process: Process,
    seeds: Tensor,
    levels: int | None = None,
    condition: Any = None,
    rows: int = 64,
    gone: Callable[[], Tensor] | None = None,
) -> Terms:
    """The parts of an unbiased estimate of the bound (1) on −log p(free text | given text).

    x0 (B, L), free (B, L) bool, seeds (B,): a text's estimate depends on its own seed alone.  `levels` None takes every
    level.  `rows` texts × levels go through the predictor at a time; condition, if a tensor, is (B, …).  Texts that are `gone()`,
    (B,) bool, which is asked before each time, cost no forward any more, and their estimates mean nothing.
    """
    total = free.flatten(1).sum(-1)
    steps = process.bound_steps(total)  # (B,)
    used = steps if levels is None else steps.clamp(max=levels)
    text = torch.arange(len(x0), device=x0.device).repeat_interleave(used)
    part = torch.arange(len(text), device=x0.device) - (used.cumsum(0) - used)[text]
    prior = process.prior_bound(x0, free).double()
    if len(text) == 0:
        return Terms(prior, text, text, torch.zeros_like(text, dtype=torch.float64))
    place = Rng(seeds[text], stream=part + 1, device=x0.device).uniform(1)[:, 0]
    size = steps[text] / used[text]
    level = ((part + place) * size).floor().long() + 1  # 1 … T, stratified
    nats = torch.zeros(len(text), dtype=torch.float64, device=x0.device)
    for piece in torch.arange(len(text), device=x0.device).split(rows):
        if gone is not None:
            piece = piece[~gone()[text[piece]]]
        row = text[piece]
        if not len(row):
            continue
        x, open_ = x0[row], free[row]
        j, n = spread(level[piece], open_), spread(steps[row], open_)
        t = torch.where(open_, j.double() / n, 0.0)
        s = torch.where(open_, (j - 1).double() / n, 0.0)
        rng = Rng(seeds[row], stream=part[piece] + 1, device=x0.device)
        rng.counter = 1
        x_t = process.corrupt(x, t, process.noise(x, t, rng=rng))
        where = open_ if process.sketch(x_t) is None else open_ & (x_t != x)
        of_row = condition[row] if isinstance(condition, Tensor) else condition
        prediction = predictor(Query(x_t, t, at=positions_of(where), condition=of_row))
        nats[piece] = process.bound(prediction, x, x_t, t, s).double()
    return Terms(prior, text, level, nats * size)


def nelbo(
    x0: Tensor,
    free: Tensor,
    *,
    predictor: Predictor,
    process: Process,
    seeds: Tensor,
    levels: int | None = None,
    condition: Any = None,
    rows: int = 64,
    gone: Callable[[], Tensor] | None = None,
) -> Tensor:
    """The sum of `terms`: an unbiased estimate of the bound (1), nats per text, (B,) float64.

    With `levels` 1 an interval over texts covers less than it says, 84 to 98 % for a nominal 95 %: see above.
    """
    options: dict[str, Any] = {"levels": levels, "condition": condition, "rows": rows, "gone": gone}
    return terms(x0, free, predictor=predictor, process=process, seeds=seeds, **options).total()


def bits_per_dimension(nats: Tensor, x0: Tensor, free: Tensor | None = None) -> Tensor:
    """Nats of each example (B,) in bits for each of its values, (B,): x0 (B, …), those at `free` places where these are given."""
    counted = torch.ones_like(x0, dtype=torch.bool) if free is None else spread(free, x0).expand_as(x0)
    return nats / (counted.flatten(1).sum(-1) * math.log(2))


def ratio(totals: Tensor, counts: Tensor) -> tuple[float, float]:
    """Σ totals / Σ counts, and its standard error over texts (linearised ratio estimator; nan for one text)."""
    totals, counts = totals.double(), counts.double()
    mean = totals.sum() / counts.sum()
    residual = totals - mean * counts
    texts = len(totals)
    error = (
        (residual.square().sum() * texts / (texts - 1)).sqrt() / counts.sum() if texts > 1 else torch.tensor(torch.nan)
    )
    return mean.item(), error.item()
