"""Which part of a text an example of an ordered process sees: nothing, or a random subset of random size."""

from __future__ import annotations

import torch
from torch import Tensor

from textdiff.core.rng import Rng
from textdiff.processes import PROCESSES
from textdiff.training.data import Known
from textdiff.training.sections import Recipe

SEEN = 1 << 17  # the stream that these parts are drawn from


def subsets(seeds: Tensor, free: Tensor, nothing: float) -> Tensor:
    """The positions that are seen, bool like free (B, L).

    A share `nothing` of the rows sees none; of the others each sees v of its n free positions, v uniform on 0 … n − 1 and the subset
    uniform among those of its size.
    """
    rng = Rng(seeds, stream=SEEN)
    draws = rng.uniform(2)
    size = (draws[:, 1] * free.sum(-1)).floor().long()
    return rng.subset(free, torch.where(draws[:, 0] < nothing, 0, size))


def shown(recipe: Recipe) -> Known | None:
    """The part of each example; None where no process of the recipe is ordered."""
    if not any(PROCESSES[name].ordered for name in recipe.processes):
        return None

    def known(process: str, seeds: Tensor, free: Tensor) -> Tensor:
        if not PROCESSES[process].ordered:
            return torch.zeros_like(free)
        return subsets(seeds, free, recipe.from_nothing)

    return known
