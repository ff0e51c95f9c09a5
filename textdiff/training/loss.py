"""The one training loss: weighted cross-entropy of the draft, in nats per free position.

    loss = Σ_rows Σ_i w_i · −log q_i(x0_i | x_t) / N                                                                  (1)

w are the process's weights (for the mask process n/m at masked positions: the bound itself), and N the free positions of
the whole optimiser step, not of this piece and not the masked ones: cutting a step into pieces changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from textdiff.contracts import Predictor, Process
from textdiff.predictions import positions_of
from textdiff.predictors.folder import TextModel


def weighted_nll(
    predictor: Predictor, process: Process, x0: Tensor, x_t: Tensor, t: Tensor, condition: Any = None
) -> Tensor:
    """Σ w_i · −log q_i(x0_i) over the batch, nats; the predictor is asked only where w > 0."""
    weights = process.weights(x_t, t)
    at = positions_of(weights > 0)
    prediction = predictor(x_t, t, at=at, condition=condition)
    return (weights[at] * prediction.per_position(lambda logits, *where: cross_entropy(logits, x0[where]))).sum()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """−log softmax(logits)[target] in nats, (n, V), (n,) -> (n,) float32: `Categorical.nll` takes float64, slow backwards."""
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


class Denoiser(nn.Module):
    """A network with its loss, so that data-parallel wrappers see one forward call."""

    def __init__(self, text_model: TextModel):
        nn.Module.__init__(self)
        self.network = text_model.model
        self.predictors = {name: text_model.predictor(name) for name in text_model.processes}
        self.processes = {name: text_model.process(name) for name in text_model.processes}

    def forward(
        self, x0: Tensor, x_t: Tensor, t: Tensor, condition: Tensor, process: str, positions: int, dropout: int
    ) -> Tensor:
        """(1) for one piece of a step that holds `positions` free positions in all; `dropout` seeds the network's own."""
        torch.manual_seed(dropout)
        predictor, forward = self.predictors[process], self.processes[process]
        return weighted_nll(predictor, forward, x0, x_t, t, condition) / positions
