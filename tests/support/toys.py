"""Small processes and samplers that a table can be given a line of: right ones, and wrong ones that must be noticed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.contracts import spread
from textdiff.core.rng import Rng
from textdiff.processes.mask import Mask
from textdiff.processes.uniform import Uniform
from textdiff.processes.values import OfValues
from textdiff.samplers.ancestral import ancestral


def covered(mask_id: int) -> Mask:
    """A process of tokens like `mask`, of another name."""
    return Mask(mask_id)


class Stirred(Uniform):
    """A process of tokens without masks and without a bound: like `uniform`, of another name."""

    def bound(self, prediction: Any, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Square(OfValues):
    """A process of values that no schedule describes: x_t = (1 − t²) x0 + (t + t²)/2 ε."""

    steps: int = 20

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        return torch.where(spread(free, given), rng.normal(*given.shape[1:]).to(given.dtype), given)

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> Tensor:
        return rng.normal(*x0.shape[1:]).to(x0.dtype)

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        t = t.to(x0.dtype)
        return (1 - t * t) * x0 + (t + t * t) / 2 * noise

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> Tensor:
        t = t.to(x_t.dtype)
        return torch.where(t > 0, (x_t - (1 - t * t) * x0) / (t + t * t) * 2, 0.0)

    bridge = bridges.reuse

    def decode(self, x: Tensor) -> Tensor:
        return x

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        return (t > 0).float()

    def bound(self, prediction: Any, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        raise NotImplementedError

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        raise NotImplementedError


class Shrunk(Square):
    """A wrong process: the noise that it recovers is too small."""

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> Tensor:
        return 0.9 * super().recover(x0, x_t, t, rng=rng)


def plain() -> Any:
    """A sampler for every process, like `improved`, of another name."""
    return ancestral(bridges.improved)


def early() -> Any:
    """A wrong sampler for every process: it goes lower than it is asked to, and says that it did not."""
    whole = ancestral(bridges.improved)

    def step(state: Any, s: Tensor, *, predictor: Any, process: Any, rng: Rng) -> Any:
        return replace(whole(state, s * 0.9, predictor=predictor, process=process, rng=rng), t=s)

    return step
