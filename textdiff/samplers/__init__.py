"""The table of samplers, and of the processes that each one serves.  Listing it imports no torch.

A new sampler is one file beside this one, a function that returns a step, and one line here.  `exact` names the processes
for which it reproduces p(x0), given exact marginals, at temperature 1, started from the exact law at level 1, one position
a step; `textdiff verify` checks the claim.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line of the table of samplers."""

    path: str  # "module:attribute" of a function that takes the options and returns a step
    processes: tuple[str, ...]
    exact: tuple[str, ...]
    cost: str
    summary: str
    options: tuple[str, ...] = ()


COUNTED = ("mask", "replacement", "redraw")
CONTINUOUS = ("embedding", "gaussian")
SAMPLERS: dict[str, Entry] = {
    "baseline": Entry(
        "textdiff.samplers.ancestral:baseline",
        (*COUNTED, "uniform", *CONTINUOUS, "cold"),
        (),
        "1 a step",
        "predict everything, corrupt again with fresh noise",
    ),
    "improved": Entry(
        "textdiff.samplers.ancestral:improved",
        (*COUNTED, "uniform", *CONTINUOUS, "cold"),
        ("mask",),
        "1 a step",
        "predict, and go on with the noise that is there (DDIM)",
    ),
    "refresh": Entry(
        "textdiff.samplers.ancestral:refreshed",
        (*COUNTED, *CONTINUOUS),
        (),
        "1 a step",
        "improved, with a share of the noise drawn anew (like ReMDM)",
        ("share",),
    ),
    "ddpm": Entry(
        "textdiff.samplers.ancestral:ddpm",
        CONTINUOUS,
        (),
        "1 a step",
        "improved, with the noise that the Markov chain draws anew; eta 0 is DDIM, last: posterior, simple or none",
        ("eta", "last"),
    ),
    "interpolation": Entry(
        "textdiff.samplers.interpolation:interpolated",
        ("embedding",),
        (),
        "1 a step",
        "ddpm by the expected embedding instead of a drawn token's (score interpolation)",
        ("eta",),
    ),
    "heun": Entry(
        "textdiff.samplers.second_order:heun",
        CONTINUOUS,
        (),
        "2 a step, 1 in the last",
        "the probability-flow ODE by the trapezoid rule, of second order; draws nothing",
    ),
    "edit": Entry(
        "textdiff.samplers.edit:marginal",
        ("mask", "replacement"),
        ("mask", "replacement"),
        "1 a step",
        "one position and its token in one draw from the marginals",
    ),
    "edit-count": Entry(
        "textdiff.samplers.edit:by_count",
        ("replacement",),
        (),
        "1 a step",
        "one of exactly m differing positions (conditional Bernoulli)",
    ),
    "confidence": Entry(
        "textdiff.samplers.order:confidence",
        ("mask",),
        ("mask",),
        "1 a step",
        "unmask where the likeliest token is surest",
    ),
    "margin": Entry(
        "textdiff.samplers.order:margin",
        ("mask",),
        ("mask",),
        "1 a step",
        "unmask where the two likeliest tokens are furthest apart",
    ),
    "entropy": Entry(
        "textdiff.samplers.order:entropy",
        ("mask",),
        ("mask",),
        "1 a step",
        "unmask where the prediction has least entropy",
    ),
    "entropy-bounded": Entry(
        "textdiff.samplers.order:entropy_bounded",
        ("mask",),
        (),
        "as many steps as the bound asks",
        "unmask as many positions as the joint-entropy bound allows (exact at gamma 0)",
        ("gamma",),
    ),
    "gibbs": Entry(
        "textdiff.samplers.corrector:gibbs",
        ("mask", "replacement"),
        ("mask", "replacement"),
        "1 a step + 1 a move",
        "one position at a time, then sweeps that noise one position and draw it again",
        ("sweeps",),
    ),
}
