"""How much a request may ask for, and how many may wait."""

from __future__ import annotations

import math
from dataclasses import dataclass

from textdiff.core.errors import AskedError
from textdiff.pipeline.jobs.verbs import Job, Settings, Verb
from textdiff.pipeline.options import at_least
from textdiff.pipeline.page import longest
from textdiff.pipeline.plan import Plan
from textdiff.pipeline.score.order import Order
from textdiff.pipeline.text import TextPipeline
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS

COUNTED = ("n", "variations", "tries", "rounds", "repeats")  # numbers of a job by which the work on it is multiplied


@dataclass(frozen=True)
class Limits:
    """The limits of a service; AskedError for those with which nothing could be done."""

    window: float = 0.02  # seconds that a request waits for others with which it can be worked on
    queue: int = 256  # requests that wait at most
    texts: int = 64  # of a request, by `texts_of`
    seconds: float = 60.0  # until a request is given up
    body: int = 1 << 16  # bytes of a request

    def __post_init__(self) -> None:
        for name in ("queue", "texts", "body"):
            at_least(name, getattr(self, name), 1)
        if not 0 <= self.window < math.inf:
            raise AskedError(f"window is {self.window}; it must be a number of seconds, at least 0")
        if not 0 < self.seconds < math.inf:
            raise AskedError(f"timeout is {self.seconds}; it must be a number of seconds above 0")


def texts_of(pipe: TextPipeline, verb: Verb, settings: Settings, job: Job) -> int:
    """How many texts a job (`prepared`) asks for: each candidate, particle, round, pass and repeat counts as one.

    AskedError where no job could be done with these options.
    """
    plan = verb.plan(pipe, settings)
    says = {**settings, **{name: job.get(name) for name in verb.own}}
    factors = [max(1, int(says.get(name) or 1)) for name in COUNTED]
    if "order" in says:
        factors.append(Order.parse(says["order"], files=False).repeats)
    return math.prod(factors, start=1 if plan is None else plan.each * _passes(pipe, plan))


def _passes(pipe: TextPipeline, plan: Plan) -> int:
    """How often a chain goes over a text.

    Steps beyond the positions are passed over where levels are counts; elsewhere the usual number of steps is one pass.
    """
    entry, way = PROCESSES[plan.process], SAMPLERS[plan.sampler]
    usual = entry.steps or longest(pipe.model)
    first = 1 if entry.counts or plan.steps is None else math.ceil(plan.steps / usual)
    return first + (math.ceil(plan.sampler_options["sweeps"]) if way.sweeps else 0)
