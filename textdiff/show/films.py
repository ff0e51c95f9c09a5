"""What moving pictures of texts and of images share: the clock, the page, and how frames become a GIF.

Time is counted in states.  Each state stands for `delay` seconds, the last one for REST.
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

REST = 2.0  # seconds that the end stands
KINDS = ("html", "svg", "gif")
LARGEST = 65535  # pixels of a GIF's side, by its format
AREA = 1 << 28  # pixels of all frames of a GIF together: what Pillow holds in memory at a time


@dataclass(frozen=True)
class Clock:
    """`times` states, `delay` seconds each but the last."""

    times: int
    delay: float

    def __post_init__(self) -> None:
        if not 0.02 <= self.delay < 3600:
            raise AskedError(f"delay is {self.delay}; it must be a number of seconds, at least 0.02")

    @property
    def seconds(self) -> float:
        return (self.times - 1) * self.delay + REST

    def share(self, time: int) -> float:
        """When a state begins, as a share of the whole."""
        return time * self.delay / self.seconds

    def visible(self, begin: int, stop: int) -> tuple[str, str]:
        """What makes an element of SVG visible from state `begin` until before state `stop`: an element in it, an attribute.

        A viewer that moves nothing shows what is visible at the end.
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
    """JSON that cannot end the script element it stands in."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise AskedError(f"the header of the trace cannot stand on a page ({reason}); record it anew") from None
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def fits_gif(width: float, height: float, frames: int) -> None:
    """An AskedError if so many frames of this size are more than a GIF, or the memory, can take."""
    if max(width, height) > LARGEST or width * height * frames > AREA:
        raise AskedError(
            f"the trace makes {frames} frames of {width:.0f} by {height:.0f} pixels, which is too much for a GIF; "
            f"show fewer texts with -n, or write .html or .svg"
        )


def gif(frames: Sequence[Any], delay: float) -> bytes:
    """Pillow images as a GIF that is repeated for ever, the last one standing longer."""
    stream = io.BytesIO()
    times = [round(1000 * Clock(len(frames), delay).delay)] * (len(frames) - 1) + [round(1000 * REST)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return stream.getvalue()


def nothing_to_show() -> AskedError:
    return AskedError("the trace has a header, but no states to show; record it anew")
