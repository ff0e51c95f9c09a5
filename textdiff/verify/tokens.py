"""The rows of processes whose x0 and x_t are tokens: exact laws by enumeration.

Beside its law on texts of several positions every sampler is run where nothing is approximate, on texts of one position,
and where it must leave something alone, on texts with a given token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from textdiff.core.contracts import Process
from textdiff.core.levels import count_levels, even_levels
from textdiff.processes import PROCESSES
from textdiff.processes import Entry as ProcessLine
from textdiff.samplers import SAMPLERS
from textdiff.samplers import Entry as SamplerLine
from textdiff.samplers.corrector import sweep_levels
from textdiff.verify.chains import run
from textdiff.verify.rows import Asked, Row, construct
from textdiff.verify.spaces import ExactPredictor, Space, exact_bound, ignorant

DEFAULT = Space.random(3, 3)
FULL = (Space.random(3, 4, seed=1), Space.random(4, 2, seed=2), Space.random(2, 6, seed=3), Space.random(4, 3, seed=4))
MANY = 64  # texts of a space, above which a sampler that reads every position of every draft takes too long


def build(name: str, space: Space) -> Process:
    """A process of the table, or a user's by "module:attribute", over the tokens of `space`."""
    return construct(name, mask_id=space.size, vocabulary=torch.arange(space.size))


@dataclass(eq=False)
class Setting:
    """A process on a space with what its rows share: the exact predictor, the bound for each rule, and smaller spaces."""

    space: Space
    name: str
    process: Process
    exact: ExactPredictor
    excesses: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, space: Space) -> Setting:
        """The process `name` over the tokens of a space."""
        process = build(name, space)
        return cls(space, name, process, ExactPredictor(space, process))

    @functools.cached_property
    def one(self) -> Setting:
        """The same process on texts of one position."""
        return Setting.of(self.name, Space.random(1, self.space.size, seed=self.space.length))

    @functools.cached_property
    def partly(self) -> Space:
        """The space with its first token given."""
        return self.space.given_first()

    @functools.cached_property
    def line(self) -> ProcessLine:
        """The process's line of the table, or one that says what a user's own process shows by itself."""
        if self.name in PROCESSES:
            return PROCESSES[self.name]
        masks = self.process.sketch(torch.zeros(1, 1, dtype=torch.long)) is not None
        return ProcessLine(
            path=self.name,
            summary="a process of the user's",
            needs=("vocabulary",),
            data="tokens",
            first="improved" if masks else "baseline",
            counts=masks,
            masks=masks,
            renews=masks,
        )

    def excess(self, rule: str) -> float | None:
        """The exact bound minus the entropy, nats; None where the process has none."""
        if rule not in self.excesses:
            process: Any = replace(self.process, rule=rule) if self.line.ruled else self.process  # type: ignore[type-var]
            try:
                self.excesses[rule] = exact_bound(self.space, process, self.exact) - self.space.entropy
            except NotImplementedError:
                self.excesses[rule] = None
        return self.excesses[rule]


def sampler_line(name: str) -> SamplerLine:
    """A sampler's line of the table, or one that promises nothing for a user's own."""
    own = SamplerLine(path=name, summary="a sampler of the user's", cost="?")
    return SAMPLERS.get(name, own)


def sequence(process: ProcessLine, sampler: SamplerLine, n: int, steps: int | None) -> list[float]:
    """The levels that the pipeline would walk for one row of `n` free positions."""
    if not process.counts:
        return list(even_levels(steps or max(n, 3)))  # one step would hide a wrong bridge
    size = torch.tensor([n])
    walk = [*count_levels(size, steps if sampler.stepped else None)]
    return [level.item() for level in [*walk, *(sweep_levels(size, n) if sampler.sweeps else ())]]


def check(asked: Asked, setting: Setting) -> Row:
    """One sampler with the process and on the space of a setting."""
    space, process, line = setting.space, setting.line, sampler_line(asked.sampler)
    step, partly = asked.built(), setting.partly
    levels, fewer, single = (sequence(process, line, n, asked.steps) for n in (space.n, partly.n, 1))
    whole = run(space, setting.process, setting.exact, step, levels)
    given = run(partly, setting.process, ignorant(partly), step, fewer)
    alone = run(setting.one.space, setting.one.process, setting.one.exact, step, single)
    one_each = asked.steps is None or asked.steps >= space.n
    return Row(
        space=f"V={space.size} L={space.length}",
        process=asked.process,
        sampler=asked.sampler,
        options=asked.shown(),
        steps=len(levels),
        claim=asked.claim or ("exact" if one_each and line.is_exact(process) else "approximate"),
        total_variation=whole.distance,
        shipped_prior=whole.from_prior,
        excess=setting.excess(line.rule),
        forwards=whole.forwards,
        one_position=alone.distance,
        astray=max(whole.astray, given.astray),
    )


def work(
    process: str, samplers: Sequence[str], full: bool, claim: str | None, named: bool
) -> Iterator[Callable[[], Row]]:
    """The rows of a process with those of `samplers` that serve it; a sampler that was `named` serves a user's process anyway."""
    for space in (DEFAULT, *FULL) if full else (DEFAULT,):
        setting = Setting.of(process, space)
        for sampler in samplers:
            line = sampler_line(sampler)
            serves = line.serves(setting.line) or (named and process not in PROCESSES)
            edits = (line.single and not line.sweeps) or line.rule == "count"
            if serves and (setting.line.masks or edits or space.size**space.length <= MANY):
                shows_cost = full or sampler == setting.line.first
                for options, steps in trials(line, space.length, shows_cost):
                    yield functools.partial(check, Asked(process, sampler, options, steps, claim), setting)


def trials(line: SamplerLine, length: int, cost: bool) -> Iterator[tuple[Mapping[str, Any], int | None]]:
    """Options and steps to run a sampler with: its defaults, what its line adds, and with `cost` two steps, where it can."""
    yield {}, None
    for options in line.also:
        yield options, None
    if cost and length > 2 and line.stepped and not line.sweeps:
        yield {}, 2
