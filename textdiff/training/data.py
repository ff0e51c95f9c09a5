"""Training examples: fixed-length token sequences, and the corrupted micro-batches made of them.

The batch of an optimiser step holds texts of one length (and so no padding).  Which texts, how they are corrupted and by
which process depends on (seed, epoch, example) alone: neither on how the batch is cut into pieces nor on ranks or workers.
Levels are stratified over the whole step,

    m = ⌊n · (π(k) + U)/G⌋ + 1,   π a random permutation of the step's G texts, U ~ U(0, 1)                          (1)

so that each text's level is uniform on 1 … n and a step holds every band of levels.

A whole step is given its texts' titles, or none of them, and the same holds for the dynasties: a slot of the prefix that no text
of the step fills costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from textdiff.core.contracts import Model, Process, spread
from textdiff.core.rng import Rng, example_seed
from textdiff.data import records

# (process, seeds (B,), free (B, …) bool) -> bool like free
Known = Callable[[str, Tensor, Tensor], Tensor]
PIECE = 1 << 20  # numbers hashed at a time
BLOCK = 1 << 17  # numbers of an order that are drawn at a time
CONDITIONS = (*records.CONDITIONS, "label")  # slots of the prefix that a step may leave empty; images have a label


@dataclass(frozen=True)
class Group:
    """All texts of one length and one form.  The rows of `ids` and `condition` may stay in a file (rows.py)."""

    ids: Any  # (N, L)
    condition: Any  # (N, P) prefix tokens, with the conditions of the recipe
    free: Tensor  # (L,) bool
    seeds: Tensor | None = (
        None  # (N,) what each text is always corrupted with (reflow.py); None where every epoch draws anew
    )


class Examples(NamedTuple):
    """What a recipe is trained with."""

    model: Model  # before training
    train: list[Group]
    validation: list[Group]
    unknown: float | None = None  # the share of the tokens that the vocabulary does not know; None of images


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def unsaid(condition: Tensor, prefix: Sequence[str], slots: Collection[str], pad: int) -> Tensor:
    """`condition` (B, P) with the slots of these names left empty."""
    columns = [k for k, slot in enumerate(prefix) if slot in slots]
    return condition.index_fill(1, torch.tensor(columns, dtype=torch.long, device=condition.device), pad)


@dataclass(frozen=True, eq=False)
class MicroBatches:
    """A map from the number of a micro-batch, over the whole run, to its corrupted tensors.

    Micro-batch i is piece i mod P of optimiser step i // P, P = pieces.  An epoch is one pass over every group; the last
    step of a group in an epoch is filled up from the group's beginning.
    """

    groups: list[Group]
    processes: dict[str, Process]
    shares: dict[str, float]
    batch: int
    pieces: int
    steps: int
    seed: int
    conditions: dict[str, float] = field(default_factory=dict)  # the share of the steps that are given each
    prefix: tuple[str, ...] = ()
    pad: int = 0
    known: Known | None = None  # the places that an example sees clean
    _orders: dict[int, tuple[int, Tensor]] = field(default_factory=dict, init=False)  # group -> epoch, its order in it

    def __len__(self) -> int:
        return self.steps * self.pieces

    def steps_per_epoch(self) -> int:
        return sum(-(-len(g.ids) // self.batch) for g in self.groups)

    def plan(self, step: int) -> tuple[int, int, int]:
        """(epoch, group, first example) of an optimiser step."""
        epoch, place = divmod(step, self.steps_per_epoch())
        slot = int(self._order_in(epoch, -1, self.steps_per_epoch())[place])
        for g, group in enumerate(self.groups):
            steps = -(-len(group.ids) // self.batch)
            if slot < steps:
                return epoch, g, slot * self.batch
            slot -= steps
        raise AssertionError("an epoch has as many slots as steps")

    def _order_in(self, epoch: int, g: int, n: int) -> Tensor:
        """The order of the n texts of group g in an epoch (-1 stands for the steps of all groups); the last one is remembered."""
        if self._orders.get(g, (-1,))[0] != epoch:
            self._orders.pop(g, None)
            self._orders[g] = epoch, _order(n, self.seed, epoch, g)
        return self._orders[g][1]

    def process_of(self, step: int) -> str:
        """The process of a step: a golden-ratio sequence over the shares, so that they mix evenly."""
        place = (step + 0.5) * 0.6180339887498949 % 1 * sum(self.shares.values())
        for name, share in self.shares.items():
            if place < share:
                return name
            place -= share
        return max(self.shares, key=self.shares.__getitem__)

    def silent(self, step: int) -> set[str]:
        """The conditions that a step is not given."""
        epoch, _, _ = self.plan(step)
        draws = Rng([example_seed(self.seed, epoch, -3, step)]).uniform(len(CONDITIONS))[0]
        return {k for k, draw in zip(CONDITIONS, draws, strict=True) if draw >= self.conditions.get(k, 1.0)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, piece = divmod(index, self.pieces)
        epoch, g, first = self.plan(step)
        group, name = self.groups[g], self.process_of(step)
        order = self._order_in(epoch, g, len(group.ids))
        size = self.batch // self.pieces
        slots = torch.arange(piece * size, (piece + 1) * size)
        chosen = order[(first + slots) % len(order)].long()
        stratum = _order(self.batch, self.seed, epoch, -2 - step).long()[slots]
        x0 = group.ids[chosen]
        free = group.free.expand(len(x0), *group.free.shape)
        lap = (first + slots) // len(order)
        seeds = torch.tensor(
            [example_seed(self.seed, epoch, g, int(i), int(r)) for i, r in zip(chosen, lap, strict=True)]
        )
        n = int(group.free.expand(x0.shape[1:]).sum())
        steps = self.processes[name].bound_steps(torch.tensor([n]))
        m = (steps * (stratum + Rng(seeds).uniform(1)[:, 0]) / self.batch).floor() + 1
        open_ = free if self.known is None else free & ~self.known(name, seeds, free)
        t = torch.where(open_, spread(m / steps, free), 0.0)
        return {
            "x0": x0,
            "t": t,
            "seeds": seeds if group.seeds is None else group.seeds[chosen],
            "condition": unsaid(group.condition[chosen], self.prefix, self.silent(step), self.pad),
            "process": name,
            "positions": self.batch * n,  # free positions of the whole optimiser step
            "dropout": seeds,  # of the draws of the network, which differ from epoch to epoch in any case
        }


def _order(n: int, *parts: int) -> Tensor:
    """A random order of 0 … n − 1 that depends on `parts` alone."""
    seed = [example_seed(*parts)]
    return torch.from_numpy(ascending(n, lambda at: Rng(seed).uniform_at(torch.zeros_like(at), at).numpy()))


def ascending(n: int, keys: Callable[[Tensor], np.ndarray], block: int = BLOCK) -> np.ndarray:
    """The numbers 0 … n − 1 in the order of their keys; numbers of equal keys stay in their own order.

    `keys` gives the keys, in [0, 1), of the numbers it is passed, and always the same ones: they are computed three times, rather
    than held.  First the keys of every bucket [b/K, (b + 1)/K) are counted, then the numbers are written into the part of
    the result that belongs to their bucket, and then each part is sorted.  So there are 4 bytes a number, those of the
    result, and the work of one block.
    """
    if n <= block:
        return keys(torch.arange(n)).argsort(kind="stable").astype(np.int32)
    buckets = -(-n // block)

    def bucketed() -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, n, block):
            at = torch.arange(first, min(first + block, n))
            yield first, np.minimum((keys(at) * buckets).astype(np.int64), buckets - 1)

    sizes = sum(np.bincount(of, minlength=buckets) for _, of in bucketed())
    ends = np.cumsum(sizes)
    place = ends - sizes  # where the next number of each bucket goes
    order = np.empty(n, dtype=np.int32 if n < 2**31 else np.int64)
    for first, of in bucketed():
        together = of.argsort(kind="stable")
        sizes = np.bincount(of, minlength=buckets)
        order[np.repeat(place - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(of))] = first + together
        place += sizes
    for part in np.split(order, ends[:-1]):
        part[:] = part[keys(torch.from_numpy(part.astype(np.int64))).argsort(kind="stable")]
    return order
