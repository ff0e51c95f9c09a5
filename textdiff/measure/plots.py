"""The one place that imports matplotlib: every plot is made and saved here.

We use only matplotlib's objects, a figure on a canvas that needs no display, so that the backend and the state of `pyplot`
stay as the caller left them.
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
        raise AskedError("a plot needs matplotlib, which is missing; pip install 'textdiff[plot]'") from None
    return Figure, FigureCanvasAgg


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches, on a canvas of pixels."""
    figure_class, canvas_class = _matplotlib()
    empty = figure_class(figsize=(width, height), layout="constrained")
    canvas_class(empty)
    return empty


def save(figure: Any, path: str | Path, dpi: int = 100) -> None:
    """Write the figure to a file that holds neither the date nor the version of the program."""
    check(path)
    figure.savefig(path, dpi=dpi, metadata=_STAMPS[Path(path).suffix.lower()])


def reach(intervals: Iterable[Interval]) -> list[list[float]]:
    """How far intervals reach below and above their values, for matplotlib's error bars; 0 where that is unknown."""
    rows = list(intervals)
    below = [0.0 if row.low is None else max(0.0, row.value - row.low) for row in rows]
    above = [0.0 if row.high is None else max(0.0, row.high - row.value) for row in rows]
    return [below, above]
