"""Particles: several chains of one text, resampled by their weights (sequential Monte Carlo; Doucet, de Freitas, Gordon, 2001).

Under a constraint each step draws from the prediction restricted to it, and `State.log_weight` says how much that favours
the row.  Rows that stand for the same text are resampled as soon as their effective number

    (Σ w)² / Σ w²                                                                                                     (1)

falls under half of them; each goes on with the mean weight.  As the particles grow in number, a row picked by its weight
follows the law of the chain given the constraint.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, State, Step
from textdiff.core.rng import Rng


def resampled(step: Step, particles: int) -> Step:
    """A step that takes `step` and then resamples among each `particles` consecutive rows."""

    def then(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        after = step(state, s, predictor=predictor, process=process, rng=rng)
        weights = after.log_weight.view(-1, particles)
        mean = weights.logsumexp(-1, keepdim=True) - torch.tensor(float(particles)).log()
        share = weights.softmax(-1)
        poor = (1 / share.square().sum(-1) < particles / 2)[:, None].expand_as(share).flatten()  # (1)
        itself = torch.arange(len(poor), device=poor.device)
        group = torch.arange(len(share), device=poor.device).repeat_interleave(particles)
        drawn = rng.branch().categorical(weights[group]) + group * particles
        from_ = torch.where(poor, drawn, itself)
        return replace(
            after,
            x=after.x[from_],
            t=after.t[from_],
            x0=after.x0[from_],
            forwards=after.forwards,
            log_weight=torch.where(poor, mean.expand_as(share).flatten(), after.log_weight),
        )

    return then
