"""What a machine can do at the products that occur, and how long a text must take at the least.

The floor counts operations alone: of every evaluation the body, its last layer at the positions that are drawn (of which the keys and
values of all), and the head there.  What a run reaches of it is the floor's time, at this machine's fastest product of the run's
precision, over the time that was measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.networks.lean import products

REPEATS = 5


@dataclass(frozen=True)
class Peak:
    """Thousand millions of operations a second of x (rows, inner) times (inner, columns); None: this torch has no such product."""

    rows: int
    inner: int
    columns: int
    float32: float
    packed: float | None
    bf16: float | None
    int8: float | None

    def of(self, precision: str) -> float:
        """Of the fastest product at a precision of ours."""
        return (self.bf16 if precision == "bf16" else None) or max(self.float32, self.packed or 0.0)


def peak(rows: int, inner: int, columns: int) -> Peak:
    """Measured now, the best of a few."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inner, generator=generator) for n in (rows, columns))
    small, turned = (part.mul(20).clamp(-127, 127).to(torch.int8) for part in (x, weight.T))
    onednn = torch.backends.mkldnn.is_available()
    made: dict[str, products.Product | None] = {
        "float32": products.plain(weight, None),
        "packed": products.packed(weight, None) if onednn else None,
        "bf16": products.bf16(weight, None),
        "int8": lambda _: torch._int_mm(small, turned),
    }
    work = 2e-9 * rows * inner * columns
    found: dict[str, Any] = {name: None if one is None else work / _least(one, x) for name, one in made.items()}
    return Peak(rows, inner, columns, **found)


def _least(product: products.Product, x: Tensor) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            start = time.perf_counter()
            product(x)
            times.append(time.perf_counter() - start)
    return min(times)


def operations(length: int, steps: int, vocabulary: int, layers: int, width: int, inner: int) -> float:
    """Of one text: what the network must compute at the least, in thousand millions."""
    drawn = length / steps
    attention = 4 * length * width  # of one query: its products with all keys, and the mean of the values
    column = 8 * width**2 + 4 * width * inner + attention
    last = length * 4 * width**2 + drawn * (4 * width**2 + 4 * width * inner + attention)
    head = drawn * (2 * width**2 + 2 * width * vocabulary)
    return 1e-9 * steps * ((layers - 1) * length * column + last + head)
