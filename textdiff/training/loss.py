"""The one training loss: weighted cross-entropy of the draft, in nats per free position.

    loss = Σ_rows Σ_i w_i · −log q_i(x0_i | x_t) / N                                                                  (1)

w are the process's weights (for the mask process n/m at masked positions: the bound itself), and N the free positions of
the whole optimiser step, not of this piece and not the masked ones: cutting a step into pieces changes nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from textdiff.core.contracts import Model, Predictor, Process, Query
from textdiff.core.predictions import positions_of
from textdiff.core.rng import Rng
from textdiff.networks.dropout.keyed import KeyedDropout


def weighted_nll(
    predictor: Predictor,
    process: Process,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    condition: Any = None,
    previous: Tensor | None = None,
) -> Tensor:
    """Σ w_i · −log q_i(x0_i) over the batch, nats; the predictor is called for the positions with w > 0 alone."""
    weights = process.weights(x_t, t)
    at = positions_of(weights > 0)
    return predictor(Query(x_t, t, at=at, condition=condition, previous=previous)).weighted_nll(x0, weights)


@torch.no_grad()
def guessed(
    predictor: Predictor, process: Process, x_t: Tensor, t: Tensor, condition: Any, share: float, seeds: Tensor
) -> Tensor | None:
    """A first draft for a `share` of the rows, which their seeds choose (Chen, Zhang and Hinton, 2022).

    The other rows hold what the predictor knows without a call of the network.
    """
    if not share:
        return None
    rng = Rng(seeds, stream=1, device=x_t.device)
    drafted = (process.weights(x_t, t) > 0) & (rng.uniform(1) < share)
    return predictor(Query(x_t, t, at=positions_of(drafted), condition=condition)).draw(rng=rng)


def corrupted(process: Process, x0: Tensor, t: Tensor, seeds: Tensor) -> Tensor:
    """x_t of a training batch, row k drawn with seeds[k]."""
    rng = Rng(seeds, device=x0.device)
    rng.counter = 1  # draw 0 is the example's level
    return process.corrupt(x0, t, process.noise(x0, t, rng=rng))


class Denoiser(nn.Module):
    """A network with its loss, so that data-parallel wrappers see one forward call."""

    def __init__(self, model: Model, keyed: bool = True):
        """`keyed` False leaves dropout to torch, drawn for the piece as a whole, as compiled code needs it."""
        nn.Module.__init__(self)
        self.keyed = keyed
        self.network = model.model
        self.predictors = {name: model.predictor(name) for name in model.processes}
        self.processes = {name: model.process(name) for name in model.processes}
        self.guessed = {name: model.guessed(name) for name in model.processes}

    def forward(
        self, x0: Tensor, t: Tensor, seeds: Tensor, condition: Tensor, process: str, positions: int, dropout: Tensor
    ) -> Tensor:
        """(1) for one piece of a step that holds `positions` free positions in all.

        `seeds` (B,) are what each example is corrupted with.  That happens here and not in the data, because an encoder may be
        part of what is trained.  `dropout` (B,) seed the draws of the network itself.
        """
        draws = dropout.tolist()
        torch.manual_seed(draws[0])
        with KeyedDropout(draws) if self.keyed else contextlib.nullcontext():
            return self._loss(x0, t, seeds, condition, process) / positions

    def _loss(self, x0: Tensor, t: Tensor, seeds: Tensor, condition: Tensor, process: str) -> Tensor:
        predictor, forward = self.predictors[process], self.processes[process]
        x_t = corrupted(forward, x0, t, seeds)
        previous = guessed(predictor, forward, x_t, t, condition, self.guessed[process], seeds)
        return weighted_nll(predictor, forward, x0, x_t, t, condition, previous)
