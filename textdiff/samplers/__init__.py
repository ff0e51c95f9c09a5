"""The table of samplers, what each sampler needs of a process, and with which processes it is exact.  Listing them imports no torch.

A new sampler is one file beside this one, a function that takes the sampler's options and returns a step, and one line here; no other
file compares its name.  A sampler serves every process whose line offers what the sampler needs, so that a new process has its
samplers by its own line.  Exact means: given exact marginals, at temperature 1, started from the exact law at level 1, with one
position a step, the sampler reproduces p(x0).  `textdiff verify` checks the claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textdiff.processes import PROCESSES
from textdiff.processes import Entry as Process


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the table: how a sampler is built, what it needs of a process, and how it works."""

    path: str  # "module:attribute" of a function that takes the options and returns a step
    summary: str
    cost: str  # forwards a step, in words
    # What a process must offer: names of fields or properties of `processes.Entry`.
    needs: tuple[str, ...] = ()
    # What a process must offer, beyond `needs`, for the sampler to be exact with it; None: the sampler is exact with none.
    exact_with: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()  # arguments of the function at `path` that a person may set
    forwards: int = 1  # of a step, at most
    # It takes a number of steps.  One that does not, walks all counts and stops by itself when nothing is open.
    stepped: bool = True
    # Sweeps follow the first pass: levels go up by one position and down again (`corrector.sweep_levels`, option `sweeps`).
    sweeps: bool = False
    # Where the caller names no number of steps, a step chooses one position and its token in one draw from the marginals, and so no
    # step ever changes two positions at once.
    single: bool = False
    # The rule by which single edits are chosen, as the bound of a process with a field `rule` takes it.
    rule: Literal["marginal", "count"] = "marginal"
    # The noise that a step goes on with: "reused" as x_t shows it (of a scheduled process this is the probability-flow ODE, and
    # nothing is drawn), "fresh", or "mixed" of both.
    noise: Literal["reused", "fresh", "mixed"] = "reused"
    # It follows the mean of p(x0 | x_t) instead of a draft that is drawn: of values and vectors, exact where x0 is known.
    by_mean: bool = False
    # Of tokens: options under which `textdiff verify` runs it beside its defaults.
    also: tuple[dict[str, float], ...] = ()
    # Of values and vectors: comes to p(x0) as the steps grow in number, by exact means or marginals alone.
    converges: bool = False

    def serves(self, process: str | Process) -> bool:
        """Whether the sampler serves a process, named or as its line."""
        entry = PROCESSES[process] if isinstance(process, str) else process
        return all(getattr(entry, need) for need in self.needs)

    def is_exact(self, process: str | Process) -> bool:
        """Whether the sampler claims to be exact with a process, named or as its line."""
        entry = PROCESSES[process] if isinstance(process, str) else process
        return self.exact_with is not None and all(getattr(entry, need) for need in (*self.needs, *self.exact_with))

    @property
    def processes(self) -> tuple[str, ...]:
        """The processes of the table that the sampler serves."""
        return tuple(name for name, entry in PROCESSES.items() if self.serves(entry))

    @property
    def exact(self) -> tuple[str, ...]:
        """The processes of the table with which the sampler claims to be exact."""
        return tuple(name for name, entry in PROCESSES.items() if self.is_exact(entry))


SAMPLERS: dict[str, Entry] = {
    "baseline": Entry(
        path="textdiff.samplers.ancestral:baseline",
        summary="predict everything, corrupt again with fresh noise",
        cost="1 a step",
        exact_with=("ordered",),
        noise="fresh",
    ),
    "improved": Entry(
        path="textdiff.samplers.ancestral:improved",
        summary="predict, and go on with the noise that is there (DDIM)",
        cost="1 a step",
        exact_with=("masks",),
        converges=True,
    ),
    "refresh": Entry(
        path="textdiff.samplers.ancestral:refreshed",
        summary="improved, with a share of the noise drawn anew (like ReMDM)",
        cost="1 a step",
        needs=("renews",),
        options=("share",),
        noise="mixed",
        also=({"share": 0.7},),  # two of three positions; the default is one, which leaves masks where they are
    ),
    "ddpm": Entry(
        path="textdiff.samplers.ancestral:ddpm",
        summary="improved, with the noise that the Markov chain draws anew; eta 0 is DDIM, last: posterior, simple or none",
        cost="1 a step",
        needs=("scheduled",),
        options=("eta", "last"),
        noise="mixed",
        converges=True,
    ),
    "interpolation": Entry(
        path="textdiff.samplers.interpolation:interpolated",
        summary="ddpm by the expected embedding instead of a drawn token's (score interpolation)",
        cost="1 a step",
        needs=("scheduled", "encodes"),
        options=("eta",),
        noise="mixed",
        by_mean=True,
        converges=True,
    ),
    "heun": Entry(
        path="textdiff.samplers.second_order:heun",
        summary="the probability-flow ODE by the trapezoid rule, of second order; draws nothing",
        cost="2 a step, 1 in the last",
        needs=("scheduled",),
        forwards=2,
        by_mean=True,
        converges=True,
    ),
    "edit": Entry(
        path="textdiff.samplers.edit:marginal",
        summary="one position and its token in one draw from the marginals",
        cost="1 a step",
        needs=("edits",),
        exact_with=(),
        single=True,
    ),
    "edit-count": Entry(
        path="textdiff.samplers.edit:by_count",
        summary="one of exactly m differing positions (conditional Bernoulli)",
        cost="1 a step",
        needs=("edits", "replaces"),
        rule="count",
    ),
    "confidence": Entry(
        path="textdiff.samplers.order:confidence",
        summary="unmask where the likeliest token is surest",
        cost="1 a step",
        needs=("any_order",),
        exact_with=(),
    ),
    "margin": Entry(
        path="textdiff.samplers.order:margin",
        summary="unmask where the two likeliest tokens are furthest apart",
        cost="1 a step",
        needs=("any_order",),
        exact_with=(),
    ),
    "entropy": Entry(
        path="textdiff.samplers.order:entropy",
        summary="unmask where the prediction has least entropy",
        cost="1 a step",
        needs=("any_order",),
        exact_with=(),
    ),
    "entropy-bounded": Entry(
        path="textdiff.samplers.order:entropy_bounded",
        summary="unmask as many positions as the joint-entropy bound allows (exact at gamma 0)",
        cost="as many steps as the bound allows",
        needs=("any_order",),
        options=("gamma",),
        stepped=False,
    ),
    "gibbs": Entry(
        path="textdiff.samplers.corrector:gibbs",
        summary="one position at a time, then sweeps that noise one position and draw it again",
        cost="1 a step + 1 a move",
        needs=("edits",),
        exact_with=(),
        options=("sweeps",),
        sweeps=True,
        single=True,
    ),
}


def serving(process: str) -> tuple[str, ...]:
    """The samplers that serve a process of the table."""
    return tuple(name for name, entry in SAMPLERS.items() if entry.serves(process))
