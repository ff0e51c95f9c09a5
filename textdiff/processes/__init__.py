"""The table of forward processes: name -> ("module:attribute", one-line summary).

Listing it imports no torch.  A new process is one file beside this one and one line here; its tests come with the line.
"""

from __future__ import annotations

PROCESSES: dict[str, tuple[str, str]] = {
    "mask": ("textdiff.processes.mask:Mask", "exactly m of the free positions become [MASK]"),
    "replacement": ("textdiff.processes.replacement:Replacement", "exactly m positions get a different token"),
    "redraw": ("textdiff.processes.replacement:Redraw", "exactly m positions are redrawn, perhaps the same token"),
    "uniform": ("textdiff.processes.uniform:Uniform", "each position is redrawn independently (Markov)"),
}
