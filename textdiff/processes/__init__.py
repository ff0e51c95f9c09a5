"""The table of forward processes, and what each process offers.  Listing them imports no torch.

A new process is one file beside this one and one line here; its tests come with the line, and no other file compares its name.
What a sampler asks of a process, and what the pipeline, the model folders and `textdiff verify` have to know about one, are fields
of its line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the table: how a process is built, and what the process offers."""

    path: str  # "module:attribute" of what builds it
    summary: str
    # The keyword arguments it is built with.  Of texts: mask_id, whole (whether the predictor gives the law of whole texts),
    # vocabulary (C,), table (V, D), schedule; of values: schedule, weighting, bins, degrade, sigma, terminal.
    needs: tuple[str, ...]
    # What x0 and x_t are: "tokens" (both), "vectors" (x0 are tokens, x_t their noisy embeddings), "values" (both, of images).
    data: Literal["tokens", "vectors", "values"]
    first: str  # the sampler that is used where none is named
    # At level t exactly round(t·n) of the n free positions are corrupted, so that steps and levels are whole counts.  Where it is
    # False, steps are evenly spaced levels, and every position changes in every step.
    counts: bool = False
    # An undecided position shows as the mask token: x_t says by itself which positions are open (`sketch` is not None), and a
    # position may stay unknown for good.
    masks: bool = False
    # The positions are corrupted in a fixed order, and are written in the reverse of it: no sampler may choose another.
    ordered: bool = False
    # A corrupted position always shows another token than x0's, so that x_t and x0 together say which positions are corrupted.
    replaces: bool = False
    # `recover` gives noise that is good at every level, and `renew` may draw a share of it anew.
    renews: bool = False
    # x_t = ᾱ E(x0) + β̄ ε: it has `schedule`, `rates` and `renewal`, which the chain of DDPM and the ODE need.
    scheduled: bool = False
    # `bound` and `prior_bound` are defined; elsewhere they raise NotImplementedError.
    bounded: bool = True
    # Its bound is that of single edits and depends on how a sampler picks them: it has a field `rule` (`samplers.Entry.rule`).
    ruled: bool = False
    # How a draw keeps strict prosody; None: it cannot.  "law": the open positions are drawn from the law of the form.
    # "pattern": tokens are exchanged within a pattern of tones and rhyme, and the process takes what noise may be (`tokens`).
    prosody: Literal["law", "pattern"] | None = None
    steps: int | None = None  # where the caller names no number; None: one step for each free position
    bound_levels: int | None = None  # levels that the bound of a single text is estimated at; None: every one, in turn
    # Its name is a word of the slot "process" in the prefix of the poem vocabulary.
    in_prefix: bool = False

    @property
    def edits(self) -> bool:
        """Whether as many positions of x_t are undecided or wrong as the level counts: then single edits can be exact."""
        return self.counts and (self.masks or self.replaces) and not self.ordered

    @property
    def any_order(self) -> bool:
        """Whether x_t shows which positions are open, and any of them may be written next."""
        return self.masks and not self.ordered

    @property
    def encodes(self) -> bool:
        """Whether x_t are vectors of tokens (`encode`, `decode`)."""
        return self.data == "vectors"

    @property
    def degrades(self) -> bool:
        """Whether x_t is a degraded x0, which needs a degradation, and an end law to generate from nothing."""
        return "degrade" in self.needs


PROCESSES: dict[str, Entry] = {
    "mask": Entry(
        path="textdiff.processes.mask:Mask",
        summary="exactly m of the free positions become [MASK]",
        needs=("mask_id",),
        data="tokens",
        first="improved",
        counts=True,
        masks=True,
        renews=True,
        prosody="law",
        in_prefix=True,
    ),
    "ascending": Entry(
        path="textdiff.processes.ascending:Ascending",
        summary="the last m of the free positions become [MASK]: written from left to right",
        needs=("mask_id", "whole"),
        data="tokens",
        first="improved",
        counts=True,
        masks=True,
        ordered=True,
        prosody="law",
    ),
    "replacement": Entry(
        path="textdiff.processes.replacement:Replacement",
        summary="exactly m positions get a different token",
        needs=("vocabulary",),
        data="tokens",
        first="edit",
        counts=True,
        replaces=True,
        renews=True,
        ruled=True,
        prosody="pattern",
        in_prefix=True,
    ),
    "redraw": Entry(
        path="textdiff.processes.replacement:Redraw",
        summary="exactly m positions are redrawn, perhaps the same token",
        needs=("vocabulary",),
        data="tokens",
        first="improved",
        counts=True,
        renews=True,
        bounded=False,
    ),
    "uniform": Entry(
        path="textdiff.processes.uniform:Uniform",
        summary="each position is redrawn independently (Markov)",
        needs=("vocabulary",),
        data="tokens",
        first="improved",
        in_prefix=True,
    ),
    "embedding": Entry(
        path="textdiff.processes.embedding:embedding",
        summary="Gaussian noise on trained embeddings of the tokens",
        needs=("table", "vocabulary", "schedule"),
        data="vectors",
        first="ddpm",
        renews=True,
        scheduled=True,
        steps=64,
        bound_levels=64,
    ),
    "gaussian": Entry(
        path="textdiff.processes.gaussian:Gaussian",
        summary="Gaussian noise on values: DDPM, DDIM, flow",
        needs=("schedule", "weighting", "bins"),
        data="values",
        first="ddpm",
        renews=True,
        scheduled=True,
        steps=50,
    ),
    "cold": Entry(
        path="textdiff.processes.cold:Cold",
        summary="a deterministic degradation: blur, fade, pixelate",
        needs=("degrade", "sigma", "terminal"),
        data="values",
        first="improved",
        bounded=False,
        steps=50,
    ),
}


def of_data(*kinds: str) -> tuple[str, ...]:
    """The names of the processes of these kinds of data, in the order of the table."""
    return tuple(name for name, entry in PROCESSES.items() if entry.data in kinds)


TOKENS = of_data("tokens")
TEXTS = of_data("tokens", "vectors")  # what a model of text can serve
