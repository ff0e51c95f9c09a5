"""What the processes of values share; `ranks.py` has what the processes of whole counts share."""

from __future__ import annotations

import torch
from torch import Tensor

from textdiff.core.contracts import Prediction, State


class OfValues:
    """x_t is noisy at every free place: nothing of x0 is certain from it, and nothing can be sketched."""

    steps: int  # of the training, and of the bound

    def sketch(self, x_t: Tensor) -> None:
        return None

    def moves(self, t: Tensor, s: Tensor) -> Tensor:
        """Whether anything changes, (B,) bool; a level may rise (inversion)."""
        return (s != t).flatten(1).any(-1)

    def consistent(self, prediction: Prediction, state: State) -> Prediction:
        return prediction

    def bound_steps(self, n: Tensor) -> Tensor:
        return torch.full_like(n, self.steps)
