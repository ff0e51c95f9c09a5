"""What the core's tests share: a vocabulary with gaps, a predictor that is a table, and laws by enumeration."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.resolve import attribute
from textdiff.processes import PROCESSES

VOCABULARY = torch.tensor([2, 3, 5, 8, 9, 11])  # 0, 1, 4 … stand for special and unused ids
MASK = 12
IDS = 13


def process_of(name: str, vocabulary: Tensor = VOCABULARY, mask_id: int = MASK) -> Any:
    parts = {"mask_id": mask_id, "whole": False, "vocabulary": vocabulary}
    return attribute(PROCESSES[name].path)(**{key: parts[key] for key in PROCESSES[name].needs})


def texts(rows: int, length: int, seed: int = 0) -> Tensor:
    """Random texts over VOCABULARY, (rows, length)."""
    return VOCABULARY[torch.randint(len(VOCABULARY), (rows, length), generator=torch.Generator().manual_seed(seed))]


def some_free(rows: int, length: int, seed: int = 0) -> Tensor:
    """Free positions, different numbers in different rows, at least one each, (rows, length) bool."""
    generator = torch.Generator().manual_seed(seed + 1000)
    free = torch.rand(rows, length, generator=generator) < torch.linspace(0.2, 1.0, rows)[:, None]
    free[torch.arange(rows), torch.randint(length, (rows,), generator=generator)] = True
    return free


@dataclass(eq=False)
class Table:
    """Logits that depend on the text, the level and the position of a row alone; counts what it is asked."""

    length: int
    scale: float = 2.0
    seed: int = 0
    calls: int = 0
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        rows = self.scale * torch.randn(211, self.length, IDS, generator=generator)
        allowed = torch.zeros(IDS, dtype=torch.bool)
        allowed[VOCABULARY] = True
        self.table = rows.masked_fill(~allowed, -torch.inf)

    def __call__(self, query: Query) -> Any:
        x_t, t, at = query.x_t, query.t, query.at
        at = positions_of(torch.ones_like(x_t, dtype=torch.bool)) if at is None else at
        self.calls += 1
        self.asked.append(at)
        rows, positions = at
        level = (t.amax(-1) * 1000).round().long()
        key = (((x_t + 1) * 31 ** torch.arange(x_t.shape[1])).sum(-1) + level) % 211

        def read(index: Tensor) -> Tensor:
            self.read.append(len(index))
            return self.table[key[rows[index]], positions[index]]

        return Categorical(read, at, x_t)


def product_law(logits: Tensor) -> dict[tuple[int, ...], float]:
    """The law of independent draws from softmax of (L, V) logits, text -> probability, by brute force."""
    q = logits.double().softmax(-1)
    every = itertools.product(*(row.nonzero()[:, 0].tolist() for row in q))
    return {x: float(torch.stack([q[i, v] for i, v in enumerate(x)]).prod()) for x in every}


def normalised(law: dict[Any, float]) -> dict[Any, float]:
    total = sum(law.values())
    return {k: v / total for k, v in law.items()}


def assert_same_law(first: dict[Any, float], second: dict[Any, float], tolerance: float = 1e-12) -> None:
    """Total variation below `tolerance`."""
    keys = first.keys() | second.keys()
    distance = 0.5 * sum(abs(first.get(k, 0.0) - second.get(k, 0.0)) for k in keys)
    assert distance < tolerance, distance
