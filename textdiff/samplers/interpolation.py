"""Score interpolation (Dieleman et al., 2022): the draft of an encoded text is E's expectation under q, not E of a draw.

    x̂0 = Σ_v q(v | x_t) E(v)

which for the Gaussian process is the score that q implies.  The last step draws: at the lowest level q is all but certain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textdiff.core.contracts import Prediction, Predictor, Process, Query, State, Step, scheduled, spread
from textdiff.core.predictions import OnlyDrawn
from textdiff.core.rng import Rng
from textdiff.samplers.ancestral import ddpm


@dataclass(frozen=True)
class Expected(OnlyDrawn):
    """A prediction whose draw is the mean of encode(x0), (B, L, D), at places `inner` (B, L), and of a draw elsewhere."""

    base: Prediction
    encode: Callable[[Tensor], Tensor]
    inner: Tensor

    def pin(self, x: Tensor, where: Tensor) -> Expected:
        return replace(self, base=self.base.pin(x, where))

    def draw(self, *, rng: Rng) -> Tensor:
        mean, _ = self.base.expect(self.encode)
        if self.inner.all():
            return mean
        return torch.where(spread(self.inner, mean), mean, self.encode(self.base.draw(rng=rng)))


def interpolated(eta: float = 0.0) -> Step:
    """`ddpm` by the expected draft; `eta` as there."""
    step = ddpm(eta)

    def mean(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        def expected(query: Query) -> Expected:
            base = predictor(query)
            return Expected(base, scheduled(process).encode, s > 0)

        return step(state, s, predictor=expected, process=process, rng=rng)

    return mean
