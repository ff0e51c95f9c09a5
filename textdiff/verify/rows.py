"""One line of the report, and what a process is built from for it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textdiff.core.contracts import Process, Step
from textdiff.core.resolve import attribute
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS

EXACT = 1e-6  # what counts as 0


@dataclass(frozen=True)
class Row:
    """A process and a sampler on one space.

    A distance is a total variation where x0 are tokens, and a 2-Wasserstein distance where they are values.
    """

    space: str
    process: str
    sampler: str
    options: str  # the sampler's options and their values, empty where it has none
    steps: int
    claim: str  # "exact", "in limit" (of many steps) or "approximate"
    total_variation: float  # the distance from p(x0), begun at the exact law of level 1
    shipped_prior: float  # the same, begun at the prior that ships
    excess: float | None  # bound − entropy, nats
    forwards: float
    one_position: float  # the distance where every sampler is exact
    astray: (
        float  # probability that a given token is changed or a mask is left; of values, how far given ones are moved
    )
    finer: float | None = None  # `total_variation` with four times the steps, where a limit is claimed
    noise: float = 0.0  # what these two would be by Monte Carlo alone

    @property
    def ok(self) -> bool:
        """Whether all that is claimed holds."""
        claimed = self.total_variation if self.claim == "exact" else 0.0
        nearer = self.finer is None or self.finer <= max(self.total_variation / 2, 2 * self.noise)
        return max(claimed, self.one_position, self.astray) <= EXACT and nearer


@dataclass(frozen=True)
class Asked:
    """What one row is about: names of the tables, or objects of a user's by "module:attribute"."""

    process: str
    sampler: str
    options: Mapping[str, Any]  # that differ from the sampler's defaults
    steps: int | None = None
    claim: str | None = None  # in the place of the table's
    step: Step | None = None  # in the place of the sampler's

    def built(self) -> Step:
        """The step function."""
        return self.step or attribute(SAMPLERS[self.sampler].path if self.sampler in SAMPLERS else self.sampler)(
            **self.options
        )

    def shown(self) -> str:
        """Every option of the sampler with its value, the defaults, too."""
        if self.sampler not in SAMPLERS:
            return ""
        entry = SAMPLERS[self.sampler]
        known = inspect.signature(attribute(entry.path)).parameters
        values = {name: known[name].default for name in entry.options} | dict(self.options)
        return " ".join(f"{name}={value}" for name, value in values.items())


def construct(name: str, **parts: Any) -> Process:
    """A process of the table with those of `parts` that its line needs, or a user's by "module:attribute" with its vocabulary."""
    if name not in PROCESSES:
        process: Process = attribute(name)(parts["vocabulary"])
        return process
    entry = PROCESSES[name]
    process = attribute(entry.path)(**{need: parts[need] for need in entry.needs if need in parts})
    return process
