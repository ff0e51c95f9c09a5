"""The table of forward processes.  Listing it imports no torch.

A new process is one file beside this one and one line here; its tests come with the line.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One line of the table of processes."""

    path: str  # "module:attribute" of what builds it
    summary: str
    needs: tuple[str, ...]  # what it is built from: mask_id, vocabulary, table, schedule, degrade
    data: str  # what x0 is and x_t: tokens; tokens whose x_t is vectors; values


PROCESSES: dict[str, Entry] = {
    "mask": Entry(
        "textdiff.processes.mask:Mask", "exactly m of the free positions become [MASK]", ("mask_id",), "tokens"
    ),
    "replacement": Entry(
        "textdiff.processes.replacement:Replacement",
        "exactly m positions get a different token",
        ("vocabulary",),
        "tokens",
    ),
    "redraw": Entry(
        "textdiff.processes.replacement:Redraw",
        "exactly m positions are redrawn, perhaps the same token",
        ("vocabulary",),
        "tokens",
    ),
    "uniform": Entry(
        "textdiff.processes.uniform:Uniform",
        "each position is redrawn independently (Markov)",
        ("vocabulary",),
        "tokens",
    ),
    "embedding": Entry(
        "textdiff.processes.embedding:embedding",
        "Gaussian noise on trained embeddings of the tokens",
        ("table", "vocabulary", "schedule"),
        "vectors",
    ),
    "gaussian": Entry(
        "textdiff.processes.gaussian:Gaussian", "Gaussian noise on values: DDPM, DDIM, flow", ("schedule",), "values"
    ),
    "cold": Entry(
        "textdiff.processes.cold:Cold", "a deterministic degradation: blur, fade, pixelate", ("degrade",), "values"
    ),
}
TOKENS = tuple(name for name, entry in PROCESSES.items() if entry.data == "tokens")
TEXTS = tuple(name for name, entry in PROCESSES.items() if entry.data != "values")  # what a model of text can serve
