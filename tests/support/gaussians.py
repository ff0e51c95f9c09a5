"""Values, schedules and closed forms that the tests of Gaussian processes share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from textdiff.core import bridges
from textdiff.core.schedules import get_schedule

SCHEDULE = {name: get_schedule(name) for name in ("linear", "cosine", "flow")}
SCHEDULE["own"] = lambda t: (1 - t.double() ** 2 / 2, 2 * t.double())  # general α, β


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


BRIDGES = {
    "fresh": bridges.fresh,
    "reuse": bridges.reuse,
    "improved": bridges.improved,
    "refresh": bridges.refresh(0.3),
    "ddpm": bridges.markov(1.0),
    "half": bridges.markov(0.5),
    "simple": bridges.markov(1.0, "simple"),
    "none": bridges.markov(1.0, "none"),
}


quickly = settings(max_examples=12, deadline=None)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULE)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return torch.allclose(a, b.expand_as(a), rtol=0, atol=tolerance)
