"""ReFlow (Liu, Gong and Liu, 2022): a flow trained on its own pairs of noise and picture, which straightens it.

A flow model's ODE carries noise ε to x̂0(ε).  Trained again, by the same loss, on the pairs (ε, x̂0(ε)) in place of pairs
that were put together by chance, it learns paths that cross less, and so are straighter and need fewer steps.

The noise of a pair is not stored.  A training example is corrupted with a seed (`loss.corrupted`), and in ordinary
training that seed is another one in every epoch, which is what "by chance" means.  Here example i keeps one seed for good
(`Group.seeds`), and `pairs` starts the ODE from what that very seed corrupts the example to at level 1.  So a coupling is
a matter of the data alone: the process, the loss and the trainer are those of any other run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, State, Step, spread
from textdiff.core.errors import RecipeError
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.rng import Rng, example_seed
from textdiff.networks.images import ImageModel
from textdiff.processes import PROCESSES
from textdiff.samplers.ancestral import improved
from textdiff.samplers.second_order import heun
from textdiff.training.data import Examples, Group
from textdiff.training.loss import corrupted
from textdiff.training.sections import Recipe
from textdiff.training.trainer import Log, silent

PAIRS = 2048  # where data.limit is not given


@torch.no_grad()
def pairs(
    shape: Sequence[int],
    seeds: Tensor,
    levels: Iterable[Tensor | float],
    *,
    predictor: Predictor,
    process: Process,
    step: Step | None = None,
    condition: Tensor | None = None,
    rows: int = 256,
) -> Tensor:
    """x̂0 (N, *shape) of the noise that belongs to `seeds` (N,), by the ODE of the predictor along `levels`.

    `shape` is (C, H, W) or (D,), condition (N, …).  A pair depends on its own seed and condition alone.  `step` None is DDIM.
    """
    levels = list(levels)
    drawn = []
    for index in torch.arange(len(seeds), device=seeds.device).split(rows):
        part = seeds[index]
        given = torch.zeros(len(part), *shape, device=seeds.device)
        free = torch.ones(len(part), *(1 for _ in shape), dtype=torch.bool, device=seeds.device)
        states = sample(
            given,
            free,
            levels,
            step or improved(),
            predictor=predictor,
            process=process,
            rng=Rng(part, device=part.device),
            condition=None if condition is None else condition[index],
            start=corrupted(process, given, free.double(), part),
        )
        for state in states:
            last = state
        drawn.append(last.x)
    return torch.cat(drawn)


def bend(states: Iterable[State]) -> Tensor:
    """How far paths are from straight: E‖(x_1 − x_0) − dx/dt‖² per coordinate, averaged over t, (B,) float64.

    0 iff each row went from its first state to its last on a straight line at even speed: one Euler step then does.  The
    mean is over the steps that were taken, so let them be many.
    """
    path = list(states)
    first, last = path[0], path[-1]
    whole, total = (first.x - last.x).double(), torch.zeros(len(first.x), dtype=torch.float64, device=first.x.device)
    for before, after in itertools.pairwise(path):
        spent = (before.t - after.t).flatten(1).amax(-1)
        velocity = (before.x - after.x).double() / spread(spent, whole).clamp(min=1e-12)
        total += spent * (whole - velocity).square().flatten(1).mean(-1)
    return total


def read(recipe: Recipe, log: Log = silent) -> Examples:
    """(the model of data.train, to be trained on; its pairs; more of them, held out).

    Each class is drawn as often as the others.  Pair k depends on run.seed and k alone, so a resumed run draws them again.
    """
    data = recipe.data
    model = ImageModel.from_pretrained(data.train)
    name, n = model.processes[0], data.limit or PAIRS
    if not PROCESSES[name].scheduled or model.diffusion.holes:
        raise RecipeError(
            f"model {model.name} is of process {name} or fills holes; pairs come from one that draws whole images"
        )
    if tuple(recipe.processes) != model.processes:
        raise RecipeError(f"model {model.name} is of process {name}; write processes: {{{name}: 1.0}}")
    out = int(n * data.holdout)  # pairs that are held out
    if not 0 < out < n:
        raise RecipeError(
            f"of {n} pairs (data.limit), {data.holdout} (data.holdout) are held out; leave some on either side"
        )
    condition = model.condition(n, [model.classes[k % len(model.classes)] for k in range(n)] if model.classes else None)
    seeds = torch.tensor([example_seed(recipe.run.seed, k) for k in range(n)])
    x0 = pairs(
        model.shape,
        seeds,
        even_levels(data.steps),
        predictor=model.predictor(name),
        process=model.process(name),
        step=heun(),
        condition=condition,
    )
    free = torch.ones(1, *model.shape[1:], dtype=torch.bool)
    parts = [Group(x0[rows], condition[rows], free, seeds[rows]) for rows in (slice(out, n), slice(out))]
    defaults = recipe.defaults or model.defaults
    return Examples(replace(model, name=recipe.name, defaults=defaults, analytic=None), parts[:1], parts[1:])
