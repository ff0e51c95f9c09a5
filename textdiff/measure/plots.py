"""The door to matplotlib: whatever is drawn as a plot comes through here.

Only matplotlib's objects are used, a figure on a canvas that needs no display, so that the backend and the state of `pyplot`
stay as the caller has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.measure.intervals import Interval

PICTURES = (".png", ".svg", ".pdf")
_STAMPS: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def is_picture(path: str | Path | None) -> bool:
    """Whether a name ends as the name of a plot does."""
    return path is not None and Path(path).suffix.lower() in PICTURES


def check(path: str | Path) -> None:
    """An AskedError where no plot can be written to `path`; call it before the work that the plot is to show."""
    if not is_picture(path) or not Path(path).resolve().parent.is_dir():
        raise AskedError(f"cannot plot to {str(path)!r}; name a file in a folder that is there, ending in {PICTURES}")
    _matplotlib()


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise AskedError("a plot needs matplotlib, which is not here; pip install 'textdiff[plot]'") from None
    return Figure, FigureCanvasAgg


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches, on a canvas of pixels."""
    figure_class, canvas_class = _matplotlib()
    empty = figure_class(figsize=(width, height), layout="constrained")
    canvas_class(empty)
    return empty


def save(drawn: Any, path: str | Path, dpi: int = 100) -> None:
    """The figure as a file, without the date and the version of the program in it."""
    check(path)
    drawn.savefig(path, dpi=dpi, metadata=_STAMPS[Path(path).suffix.lower()])


def reach(intervals: Iterable[Interval]) -> list[list[float]]:
    """How far intervals go below and above their values, as matplotlib's error bars want it; 0 where that is unknown."""
    found = list(intervals)
    below = [0.0 if one.low is None else max(0.0, one.value - one.low) for one in found]
    above = [0.0 if one.high is None else max(0.0, one.high - one.value) for one in found]
    return [below, above]
