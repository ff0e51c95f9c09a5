"""A trace as a moving picture in one file: HTML with a slider, SVG that any browser or README shows, GIF.

The texts stand side by side and run at the same time, whatever batches they were drawn in.  Time is counted in states; one
more shows the end without a mark, and stands longer.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from rich.cells import cell_len

from textdiff.core.errors import AskedError
from textdiff.show.pictures import (
    GREY,
    MARGIN,
    SIZE,
    UNIT,
    Box,
    Face,
    Fonts,
    Label,
    Scene,
    drawn,
    find_font,
    grid,
    spread,
    svg_head,
    svg_shape,
)
from textdiff.show.trace import HOLE, Shot, Trace

LINE = 40  # pixels a line
HOT, HOLLOW, INK = "#ffd34d", "#e9e6dc", "#222222"
REST = 2.0  # seconds that the end stands
KINDS = ("html", "svg", "gif")

Place = tuple[int, int, int]  # row, column, columns wide


@dataclass(frozen=True)
class Cel:
    """One text at one time: what stands at each place, and whether it has just come."""

    signs: Mapping[Place, tuple[str, bool]]
    level: float
    forwards: int


def cels(trace: Trace) -> list[list[Cel]]:
    """Of each text its cels, all equally many: a text that is done earlier waits."""
    films = trace.films()
    if not films:
        raise AskedError("the trace has a header, but no states to show; record it anew")
    length = max(map(len, films.values()))
    result = []
    for film in films.values():
        text, _, level, forwards = film[-1]
        ended = [_cel(text, (), level, forwards)] * (length + 1 - len(film))
        result.append([_cel(*state) for state in film] + ended)
    return result


def _cel(text: str, new: Sequence[int], level: float, forwards: int) -> Cel:
    fresh, wide = set(new), any(cell_len(character) == 2 for character in text)
    widened = ["口" if character == HOLE and wide else character for character in text]  # takes two columns
    signs = {
        place: (character, k in fresh)
        for k, (character, place) in enumerate(zip(text, grid(widened), strict=True))
        if character.strip()
    }
    return Cel(signs, level, forwards)


def first(trace: Trace, n: int) -> Trace:
    """The trace of the first n texts alone."""
    if n < 1:
        raise AskedError(f"n is {n}; it must be at least 1")
    kept = []
    for shot in trace.shots:
        at = [k for k, row in enumerate(shot.rows) if row < n]
        texts, changed = tuple(shot.texts[k] for k in at), tuple(shot.changed[k] for k in at)
        rows, forwards = tuple(shot.rows[k] for k in at), tuple(shot.forwards[k] for k in at)
        if at:
            kept.append(Shot(rows, texts, shot.level, forwards, changed))
    return Trace(trace.header, tuple(kept))


# -- HTML -----------------------------------------------------------------------------------------------------------------


def html(trace: Trace, delay: float = 0.25) -> str:
    """A page with the trace in it (JSON in the element `trace`), a play button and a slider."""
    cels(trace)  # says what is wrong with it
    _check_delay(delay)
    lines: list[Mapping[str, Any]] = [trace.header, *map(asdict, trace.shots)]
    page = resources.files("textdiff.show").joinpath("animation.html").read_text(encoding="utf-8")
    head, middle, tail = page.split("/*data*/")
    return head + _inert(lines) + middle + _inert({"delay": delay, "rest": REST, "hole": HOLE}) + tail


def _check_delay(delay: float) -> None:
    if not 0.02 <= delay < 3600:
        raise AskedError(f"delay is {delay}; it must be a number of seconds, at least 0.02")


def _inert(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# -- drawn ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """Where the texts stand, and how large the whole is."""

    corners: list[tuple[float, float]]
    text_width: float
    text_height: float
    width: float
    height: float


def _stage(films: Sequence[Sequence[Cel]]) -> Stage:
    places = [place for film in films for cel in film for place in cel.signs]
    width = max((column + wide for _, column, wide in places), default=1) * UNIT
    height = (1 + max((row for row, _, _ in places), default=0)) * LINE
    corners, across, down = spread([(width, height + 26)] * len(films), gap=2 * MARGIN)
    return Stage(corners, width, height, across + 2 * MARGIN, down + 2 * MARGIN)


def _sign(place: Place, sign: str, corner: tuple[float, float], hot: bool = False) -> Iterator[Box | Label]:
    row, column, wide = place
    x, y = MARGIN + corner[0] + column * UNIT, MARGIN + corner[1] + row * LINE
    if sign == HOLE:
        side = wide * UNIT - 6
        yield Box(x + 3, y + (LINE - side) / 2, side, side, HOLLOW, 3)
        return
    if hot:
        yield Box(x + 1, y + 2, wide * UNIT - 2, LINE - 4, HOT, 4)
    yield Label(x + wide * UNIT / 2, y + LINE / 2, sign, SIZE if wide == 2 else 22, INK)


def _bar(stage: Stage, corner: tuple[float, float], level: float) -> Iterator[Box]:
    x, y = MARGIN + corner[0], MARGIN + corner[1] + stage.text_height + 8
    yield Box(x, y, stage.text_width, 3, HOLLOW)
    if level < 1:
        yield Box(x, y, max(stage.text_width * (1 - level), 1), 3, GREY)


def scenes(trace: Trace) -> Iterator[Scene]:
    """The picture at every time."""
    films = cels(trace)
    stage = _stage(films)
    for time in range(len(films[0])):
        shapes: list[Box | Label] = []
        for film, corner in zip(films, stage.corners, strict=True):
            for place, (sign, hot) in film[time].signs.items():
                shapes += _sign(place, sign, corner, hot)
            shapes += _bar(stage, corner, film[time].level)
            spent = f"{film[time].forwards} forwards"
            shapes.append(
                Label(MARGIN + corner[0], MARGIN + corner[1] + stage.text_height + 20, spent, 11, GREY, left=True)
            )
        yield Scene(stage.width, stage.height, tuple(shapes))


def gif(trace: Trace, delay: float = 0.25, font: str | None = None) -> bytes:
    """One frame a state and one for the end, repeated for ever; `font` as in `pictures.find_font`."""
    _check_delay(delay)
    pictures = list(scenes(trace))
    texts = [text for film in trace.films().values() for text, *_ in film]
    face: Face = find_font("".join(texts).replace(HOLE, "") + "0123456789 forwards", font)
    middle = pictures[len(pictures) // 2]
    swatch = (Box(0, 0, 2 * SIZE, SIZE, HOT), Label(SIZE, SIZE / 2, "0o", SIZE, INK), Box(0, SIZE, SIZE, SIZE, HOLLOW))
    palette = drawn(Scene(middle.width, middle.height, middle.shapes + swatch), Fonts(face)).quantize(48)
    frames = [drawn(scene, Fonts(face)).quantize(palette=palette, dither=0) for scene in pictures]
    stream = io.BytesIO()
    times = [round(1000 * delay)] * (len(frames) - 1) + [round(1000 * REST)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return stream.getvalue()


# -- SVG ------------------------------------------------------------------------------------------------------------------


def svg(trace: Trace, delay: float = 0.25) -> str:
    """Every sign is an element that is visible for its time; a viewer that moves nothing shows the finished texts."""
    films = cels(trace)
    _check_delay(delay)
    stage = _stage(films)
    clock = Clock(len(films[0]), delay)
    lines = [svg_head(stage.width, stage.height)]
    for film, corner in zip(films, stage.corners, strict=True):
        for place in sorted({place for cel in film for place in cel.signs}):
            for sign, begin, stop in _runs([cel.signs.get(place, ("", False))[0] for cel in film]):
                hot = [time for time in range(begin, stop) if sign and film[time].signs[place][1]]
                for time in hot:
                    box, _ = _sign(place, sign, corner, hot=True)
                    lines.append(_seen(box, clock, time, time + 1))
                lines += [_seen(shape, clock, begin, stop) for shape in (_sign(place, sign, corner) if sign else ())]
        for level, begin, stop in _runs([cel.level for cel in film]):
            lines += [_seen(box, clock, begin, stop) for box in _bar(stage, corner, level)]
        for spent, begin, stop in _runs([cel.forwards for cel in film]):
            x, y = MARGIN + corner[0], MARGIN + corner[1] + stage.text_height + 20
            lines.append(_seen(Label(x, y, f"{spent} forwards", 11, GREY, left=True), clock, begin, stop))
    return "\n".join([*lines, "</svg>\n"])


@dataclass(frozen=True)
class Clock:
    """`times` states, `delay` seconds each but the last."""

    times: int
    delay: float

    @property
    def seconds(self) -> float:
        return (self.times - 1) * self.delay + REST

    def share(self, time: int) -> float:
        """When a state begins, as a share of the whole."""
        return time * self.delay / self.seconds


def _seen(shape: Box | Label, clock: Clock, begin: int, stop: int) -> str:
    """A shape from state `begin` until before state `stop`."""
    ends = stop == clock.times
    if begin == 0 and ends:
        return svg_shape(shape)
    values = ["visible"] if begin == 0 else ["hidden", "visible"]
    times = [0.0] if begin == 0 else [0.0, clock.share(begin)]
    if not ends:
        values.append("hidden")
        times.append(clock.share(stop))
    told = f'values="{";".join(values)}" keyTimes="{";".join(f"{t:.5g}" for t in times)}"'
    moving = f'dur="{clock.seconds:g}s" repeatCount="indefinite"'
    inner = f'<animate attributeName="visibility" calcMode="discrete" {told} {moving}/>'
    return svg_shape(shape, inner, "" if ends else ' visibility="hidden"')


def _runs(values: Sequence[Any]) -> Iterator[tuple[Any, int, int]]:
    """(value, begin, end) of every stretch of equal values."""
    begin = 0
    for value, stretch in itertools.groupby(values):
        stop = begin + len(list(stretch))
        yield value, begin, stop
        begin = stop
