"""The parts that moving pictures of texts and of images share: the clock, the page, and the writer of GIFs.

We count time in states.  The picture shows each state for `delay` seconds, and the last one for REST seconds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.show.trace import HOLE, Trace

REST = 2.0  # seconds for which the last state is shown
KINDS = ("html", "svg", "gif")
LARGEST = 65535  # pixels that the format of a GIF allows for a side
AREA = 1 << 28  # pixels that all frames of a GIF may have together, since Pillow has all of them in memory at once


@dataclass(frozen=True)
class Clock:
    """A clock of `times` states; each but the last lasts `delay` seconds."""

    times: int
    delay: float

    def __post_init__(self) -> None:
        if not 0.02 <= self.delay < 3600:
            raise AskedError(f"delay is {self.delay}; it must be a number of seconds, at least 0.02")

    @property
    def seconds(self) -> float:
        return (self.times - 1) * self.delay + REST

    def share(self, time: int) -> float:
        """When a state begins, as a share of the whole time."""
        return time * self.delay / self.seconds

    def visible(self, begin: int, stop: int) -> tuple[str, str]:
        """An inner element and an attribute that make an SVG element visible from state `begin` until before state `stop`.

        A viewer without animation shows the elements that are visible at the end.
        """
        ends = stop == self.times
        if begin == 0 and ends:
            return "", ""
        values = ["visible"] if begin == 0 else ["hidden", "visible"]
        times = [0.0] if begin == 0 else [0.0, self.share(begin)]
        if not ends:
            values.append("hidden")
            times.append(self.share(stop))
        course = f'values="{";".join(values)}" keyTimes="{";".join(f"{t:.5g}" for t in times)}"'
        moving = f'dur="{self.seconds:g}s" repeatCount="indefinite"'
        inner = f'<animate attributeName="visibility" calcMode="discrete" {course} {moving}/>'
        return inner, "" if ends else ' visibility="hidden"'


def page(trace: Trace, delay: float) -> str:
    """A page with the trace in it (JSON in the element `trace`), a play button and a slider."""
    settings = {"delay": Clock(1, delay).delay, "rest": REST, "hole": HOLE}
    lines: list[Mapping[str, Any]] = [trace.header, *map(asdict, trace.shots)]
    template = resources.files("textdiff.show").joinpath("animation.html").read_text(encoding="utf-8")
    head, middle, tail = template.split("/*data*/")
    return head + _inert(lines) + middle + _inert(settings) + tail


def _inert(value: Any) -> str:
    """JSON that cannot close the script element around it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise AskedError(
            f"the header of the trace cannot be put on a page ({reason}); record the trace again"
        ) from None
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def fits_gif(width: float, height: float, frames: int) -> None:
    """Raise an AskedError if so many frames of this size do not fit into a GIF or into memory."""
    if max(width, height) > LARGEST or width * height * frames > AREA:
        raise AskedError(
            f"the trace makes {frames} frames of {width:.0f} by {height:.0f} pixels, which is too much for a GIF; "
            f"show fewer texts with -n, or write .html or .svg"
        )


def gif(frames: Sequence[Any], delay: float) -> bytes:
    """Pillow images as a GIF that repeats for ever and shows the last image longer."""
    stream = io.BytesIO()
    times = [round(1000 * Clock(len(frames), delay).delay)] * (len(frames) - 1) + [round(1000 * REST)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return stream.getvalue()


def nothing_to_show() -> AskedError:
    """The error for a trace without states."""
    return AskedError("the trace has a header, but no states to show; record it again")
