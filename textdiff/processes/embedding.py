"""Diffusion of embedded text: the Gaussian process over E(x0), E a table that is trained with the network (method §6).

    E(v) = √D · w_v/‖w_v‖                                                                                             (1)

The scale is fixed: left free, the loss grows ‖E‖ until the noise vanishes, and with the cross-entropy of the draft dropped
all rows fall together.  The rows w are the network's own input embeddings, so that the saved model stays a plain one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from textdiff.core.schedules import Schedule
from textdiff.processes.gaussian import Gaussian


def encoded(rows: Tensor) -> Tensor:
    """(1) of rows (…, D)."""
    directions, length = torch.nn.functional.normalize(rows, dim=-1), float(rows.shape[-1] ** 0.5)
    return directions * length


def embedding(table: Tensor, vocabulary: Tensor, schedule: Schedule, **options: Any) -> Gaussian:
    """The process over rows of `table` (V, D); level 0 is read as the nearest of the tokens `vocabulary` (C,).

    `options` are the fields of `Gaussian`; weighting is "data" unless they say otherwise: the cross-entropy counts alike at every
    level.  Vectors (B, L, D) in the place of ids are taken as encoded already (score interpolation).
    """

    def encode(x0: Tensor) -> Tensor:
        if x0.is_floating_point():
            return x0
        return encoded(table[x0])

    def decode(x: Tensor) -> Tensor:
        with torch.no_grad():
            return vocabulary[(x @ encode(vocabulary).T).argmax(-1)]  # all rows have one norm

    return Gaussian(schedule, encode=encode, decode=decode, **{"weighting": "data", **options})
