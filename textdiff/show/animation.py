"""A trace of texts as a moving picture in one file: HTML with a slider, SVG that any browser or README shows, GIF.

The texts stand side by side and change at the same time, even if they were drawn in several batches.  After the states of the
trace the picture has one more, which shows the finished texts without marks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from textdiff.core.errors import AskedError
from textdiff.show import films
from textdiff.show.films import Clock
from textdiff.show.pictures import (
    GREY,
    MARGIN,
    SIZE,
    UNIT,
    Box,
    Fonts,
    Label,
    Scene,
    find_font,
    grid,
    paint,
    spread,
    svg_head,
    svg_shape,
)
from textdiff.show.trace import HOLE, Shot, Trace

LINE = 40  # pixels from line to line
HOT, HOLLOW, INK = "#ffd34d", "#e9e6dc", "#222222"

Place = tuple[int, int, int]  # row, column, columns wide


@dataclass(frozen=True)
class Cel:
    """One text at one time: the sign at each place, and whether it is new."""

    signs: Mapping[Place, tuple[str, bool]]
    level: float
    forwards: int


def cels(trace: Trace) -> list[list[Cel]]:
    """The cels of each text, equally many for all: a text that is finished early repeats its last one."""
    courses = trace.films()
    if not courses:
        raise films.nothing_to_show()
    length = max(map(len, courses.values()))
    result = []
    for film in courses.values():
        text, _, level, forwards = film[-1]
        waiting = [_cel(text, (), level, forwards)] * (length + 1 - len(film))
        result.append([_cel(*state) for state in film] + waiting)
    return result


def _cel(text: str, new: Sequence[int], level: float, forwards: int) -> Cel:
    fresh, wide = set(new), any(cell_len(character) == 2 for character in text)
    widened = ["口" if character == HOLE and wide else character for character in text]  # a sign of two columns
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
    shots = []
    for shot in trace.shots:
        at = [k for k, row in enumerate(shot.rows) if row < n]
        texts, changed = tuple(shot.texts[k] for k in at), tuple(shot.changed[k] for k in at)
        rows, forwards = tuple(shot.rows[k] for k in at), tuple(shot.forwards[k] for k in at)
        if at:
            shots.append(Shot(rows, texts, shot.level, forwards, changed))
    return Trace(trace.header, tuple(shots))


# -- HTML -----------------------------------------------------------------------------------------------------------------


def html(trace: Trace, delay: float = 0.25) -> str:
    """A page with the trace in it, a play button and a slider."""
    cels(trace)  # raises an error for a trace that cannot be shown
    return films.page(trace, delay)


# -- shapes ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """The left upper corners of the texts, the size of a text, and the size of the picture."""

    corners: list[tuple[float, float]]
    text_width: float
    text_height: float
    width: float
    height: float


def _stage(acts: Sequence[Sequence[Cel]]) -> Stage:
    places = [place for film in acts for cel in film for place in cel.signs]
    width = max((column + wide for _, column, wide in places), default=1) * UNIT
    height = (1 + max((row for row, _, _ in places), default=0)) * LINE
    corners, across, down = spread([(width, height + 26)] * len(acts), gap=2 * MARGIN)
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
    """The pictures, one for each time."""
    acts = cels(trace)
    stage = _stage(acts)
    for time in range(len(acts[0])):
        shapes: list[Box | Label] = []
        for film, corner in zip(acts, stage.corners, strict=True):
            for place, (sign, hot) in film[time].signs.items():
                shapes += _sign(place, sign, corner, hot)
            shapes += _bar(stage, corner, film[time].level)
            cost = f"{film[time].forwards} forwards"
            shapes.append(
                Label(MARGIN + corner[0], MARGIN + corner[1] + stage.text_height + 20, cost, 11, GREY, left=True)
            )
        yield Scene(stage.width, stage.height, tuple(shapes))


def gif(trace: Trace, delay: float = 0.25, font: str | None = None) -> bytes:
    """A GIF with a frame for each state and one for the end; `font` is that of `pictures.find_font`."""
    acts = cels(trace)
    times, stage = Clock(len(acts[0]), delay).times, _stage(acts)
    films.fits_gif(stage.width, stage.height, times)
    texts = [text for film in trace.films().values() for text, *_ in film]
    fonts = Fonts(find_font("".join(texts).replace(HOLE, "") + "0123456789 forwards", font))
    pictures = list(scenes(trace))
    middle = pictures[len(pictures) // 2]
    swatch = (Box(0, 0, 2 * SIZE, SIZE, HOT), Label(SIZE, SIZE / 2, "0o", SIZE, INK), Box(0, SIZE, SIZE, SIZE, HOLLOW))
    palette = paint(Scene(middle.width, middle.height, middle.shapes + swatch), fonts).quantize(48)
    return films.gif([paint(scene, fonts).quantize(palette=palette, dither=0) for scene in pictures], delay)


# -- SVG ------------------------------------------------------------------------------------------------------------------


def svg(trace: Trace, delay: float = 0.25) -> str:
    """Every sign is an element with a time in which it is visible; a viewer without animation shows the finished texts."""
    acts = cels(trace)
    clock = Clock(len(acts[0]), delay)
    stage = _stage(acts)
    lines = [svg_head(stage.width, stage.height)]
    for film, corner in zip(acts, stage.corners, strict=True):
        for place in sorted({place for cel in film for place in cel.signs}):
            for sign, begin, stop in _runs([cel.signs.get(place, ("", False))[0] for cel in film]):
                hot = [time for time in range(begin, stop) if sign and film[time].signs[place][1]]
                for time in hot:
                    box, _ = _sign(place, sign, corner, hot=True)
                    lines.append(_visible(box, clock, time, time + 1))
                lines += [_visible(shape, clock, begin, stop) for shape in (_sign(place, sign, corner) if sign else ())]
        for level, begin, stop in _runs([cel.level for cel in film]):
            lines += [_visible(box, clock, begin, stop) for box in _bar(stage, corner, level)]
        for cost, begin, stop in _runs([cel.forwards for cel in film]):
            x, y = MARGIN + corner[0], MARGIN + corner[1] + stage.text_height + 20
            lines.append(_visible(Label(x, y, f"{cost} forwards", 11, GREY, left=True), clock, begin, stop))
    return "\n".join([*lines, "</svg>\n"])


def _visible(shape: Box | Label, clock: Clock, begin: int, stop: int) -> str:
    return svg_shape(shape, *clock.visible(begin, stop))


def _runs(values: Sequence[Any]) -> Iterator[tuple[Any, int, int]]:
    """(value, begin, stop) of every stretch of equal values."""
    begin = 0
    for value, stretch in itertools.groupby(values):
        stop = begin + len(list(stretch))
        yield value, begin, stop
        begin = stop
