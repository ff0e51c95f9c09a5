"""Pictures of texts as boxes and labels, written as SVG or drawn by Pillow: the heat map of a detailed score.

A text stands on a grid, whose columns are UNIT pixels wide; a Chinese character takes two columns.  An SVG file names no font
file and loads nothing; a picture of pixels needs a font with the characters, from the system or from a file.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from rich.cells import cell_len

from textdiff.core.errors import AskedError
from textdiff.show.heat import TOP, Detailed, Piece, colour, ink, pieces

UNIT = 16  # pixels of a column
ROW = 48  # pixels of a line
SIZE = 27  # pixels of a character
MARGIN = 24
WRAP = 56  # columns after which a line is broken
ACROSS = 1100  # pixels that texts side by side may take
PAPER, INK, GREY = "#fdfcf8", "#222222", "#8a8780"
FAMILY = (
    "'Noto Serif CJK SC','Source Han Serif SC','Songti SC','SimSun','Noto Sans CJK SC','WenQuanYi Zen Hei',monospace"
)


@dataclass(frozen=True)
class Box:
    """A filled rectangle with corners of radius `round`, and the `title` that a browser shows when the mouse is on it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    round: float = 0
    title: str = ""


@dataclass(frozen=True)
class Label:
    """Text whose middle is at height y; x is its middle, or its left end."""

    x: float
    y: float
    text: str
    size: float = SIZE
    fill: str = INK
    left: bool = False


@dataclass(frozen=True)
class Scene:
    """A picture: shapes from back to front."""

    width: float
    height: float
    shapes: tuple[Box | Label, ...]


# -- a text on its grid ---------------------------------------------------------------------------------------------------


def grid(texts: Iterable[str]) -> Iterator[tuple[int, int, int]]:
    """The row, the column and the width in columns of each piece of a text; a line break is 0 columns wide."""
    row = column = 0
    for text in texts:
        wide = max(cell_len(text), 1)
        if text == "\n":
            yield row, column, 0
            row, column = row + 1, 0
            continue
        if column and column + wide > WRAP:
            row, column = row + 1, 0
        yield row, column, wide
        column += wide


def spread(sizes: Sequence[tuple[float, float]], gap: float) -> tuple[list[tuple[float, float]], float, float]:
    """The left upper corners of boxes of these sizes (width, height), side by side, and the width and height of them all."""
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    abreast = min(len(sizes), max(1, int((ACROSS + gap) // (width + gap))))
    places = [(k % abreast * (width + gap), k // abreast * (height + gap)) for k in range(len(sizes))]
    rows = -(-len(sizes) // abreast)
    return places, abreast * (width + gap) - gap, rows * (height + gap) - gap


# -- the heat map ---------------------------------------------------------------------------------------------------------


def heat_map(details: Sequence[Detailed]) -> Scene:
    """Texts side by side, each character on the colour of its nats, with the number below it; the scale is at the bottom."""
    maps = [_one_map(detail) for detail in details]
    places, width, height = spread([(scene.width, scene.height) for scene in maps], gap=2 * MARGIN)
    width = max(width, 22 * UNIT)
    shapes = [
        _moved(s, x + MARGIN, y + MARGIN) for scene, (x, y) in zip(maps, places, strict=True) for s in scene.shapes
    ]
    foot = height + 2 * MARGIN
    for nats in range(TOP):
        shapes.append(Box(MARGIN + nats * 2 * UNIT, foot, 2 * UNIT, 14, colour(nats + 0.5)))
    for nats in range(0, TOP + 1, 2):
        tick = f"{nats}{'+' if nats == TOP else ''}"
        shapes.append(Label(MARGIN + nats * 2 * UNIT, foot + 24, tick, 11, GREY, left=nats == 0))
    shapes.append(Label(MARGIN, foot + 42, "nats of a character, given all the others", 12, GREY, left=True))
    return Scene(width + 2 * MARGIN, foot + 54 + MARGIN / 2, tuple(shapes))


def _one_map(detail: Detailed) -> Scene:
    shapes: list[Box | Label] = []
    parts = [part for piece in pieces(detail) for part in _broken(piece)]
    right = below = 0
    for piece, (row, column, wide) in zip(parts, grid(piece.text for piece in parts), strict=True):
        x, y, width = column * UNIT, row * (ROW + 6), wide * UNIT
        right, below = max(right, x + width), max(below, y + ROW)
        if piece.nats is not None:
            title = f"{piece.text}: {piece.nats:.2f} nats; likeliest: {piece.best}"
            shapes.append(Box(x + 1, y, width - 2, ROW, colour(piece.nats), 3, title))
        if piece.text.strip():
            fill = INK if piece.nats is None else ink(piece.nats)
            shapes.append(Label(x + width / 2, y + 19, piece.text, SIZE if cell_len(piece.text[0]) == 2 else 22, fill))
        if piece.nats is not None:
            number = f"{piece.nats:.1f}" if wide > 1 else f"{piece.nats:.0f}"
            shapes.append(Label(x + width / 2, y + ROW - 7, number, 9, ink(piece.nats)))
    mean = sum(detail.nats) / max(len(detail.nats), 1)
    shapes.append(Label(0, below + 16, f"mean {mean:.2f}", 12, GREY, left=True))
    return Scene(max(right, 6 * UNIT), below + 24, tuple(shapes))


def _broken(piece: Piece) -> Iterator[Piece]:
    """The piece cut into single signs where it has no nats; a character stays whole, and a line break shows as ¶."""
    if piece.nats is None:
        yield from (Piece(sign) for sign in piece.text)
    elif piece.text == "\n":
        yield Piece("¶", piece.nats, piece.best)
        yield Piece("\n")
    else:
        yield piece


def _moved(shape: Box | Label, x: float, y: float) -> Box | Label:
    if isinstance(shape, Box):
        return Box(shape.x + x, shape.y + y, shape.width, shape.height, shape.fill, shape.round, shape.title)
    return Label(shape.x + x, shape.y + y, shape.text, shape.size, shape.fill, shape.left)


# -- SVG ------------------------------------------------------------------------------------------------------------------


def svg(scene: Scene) -> str:
    """The text of an SVG file of the scene."""
    return "\n".join([svg_head(scene.width, scene.height), *map(svg_shape, scene.shapes), "</svg>\n"])


def svg_head(width: float, height: float) -> str:
    """The opening tag of an SVG file of this size, and its background."""
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    paper = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family={quoteattr(FAMILY)}>\n{paper}'


def svg_shape(shape: Box | Label, inner: str = "", more: str = "") -> str:
    """The SVG element of a shape, with the elements `inner` in it and `more` attributes."""
    if isinstance(shape, Box):
        inner += f"<title>{escape(printable(shape.title))}</title>" if shape.title else ""
        rounding = f' rx="{shape.round:g}"' if shape.round else ""
        place = f'x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}"{rounding}'
        return f'<rect {place} fill="{shape.fill}"{more}' + (f">{inner}</rect>" if inner else "/>")
    anchor = "" if shape.left else ' text-anchor="middle"'
    place = f'x="{shape.x:g}" y="{shape.y + 0.36 * shape.size:g}" font-size="{shape.size:g}"{anchor}'
    return f'<text {place} fill="{shape.fill}"{more}>{inner}{escape(printable(shape.text))}</text>'


def printable(text: str) -> str:
    """The text without the control characters that XML does not allow."""
    return "".join(c if c >= " " and c not in "\x7f\ufffe\uffff" else "\ufffd" for c in text)


# -- pixels ---------------------------------------------------------------------------------------------------------------


def png(scene: Scene, font: str | None = None) -> bytes:
    """The bytes of a PNG file of the scene; `font` is a font file, by default one of the system that has the characters."""
    stream = io.BytesIO()
    paint(scene, Fonts(find_font("".join(texts_of(scene)), font)), ratio=2).save(stream, "PNG")
    return stream.getvalue()


def texts_of(scene: Scene) -> Iterator[str]:
    """The texts of the labels of a scene."""
    return (shape.text for shape in scene.shapes if isinstance(shape, Label))


def paint(scene: Scene, fonts: Fonts, ratio: float = 1) -> Any:
    """The scene as a Pillow image with `ratio` pixels for each unit of the scene."""
    image_module, draw_module, _ = _pillow()
    size = (round(scene.width * ratio), round(scene.height * ratio))
    image = image_module.new("RGB", size, PAPER)
    draw = draw_module.Draw(image)
    for shape in scene.shapes:
        if isinstance(shape, Box):
            edges = (shape.x, shape.y, shape.x + shape.width - 1, shape.y + shape.height - 1)
            draw.rounded_rectangle([edge * ratio for edge in edges], shape.round * ratio, fill=shape.fill)
        else:
            place = (shape.x * ratio, shape.y * ratio)
            anchor = "lm" if shape.left else "mm"
            draw.text(place, printable(shape.text), shape.fill, fonts(shape.size * ratio), anchor=anchor)
    return image


@dataclass(frozen=True)
class Face:
    """A font file, and the number of a font in it."""

    path: str | None  # None: the font that comes with Pillow
    index: int = 0


@dataclass(frozen=True)
class Fonts:
    """The fonts of one face, by size."""

    face: Face

    def __call__(self, size: float) -> Any:
        return _font(self.face, round(size))


@cache
def _font(face: Face, size: int) -> Any:
    _, _, font_module = _pillow()
    if face.path is None:
        return font_module.load_default(size)
    return font_module.truetype(face.path, size, index=face.index)


def find_font(text: str, path: str | None = None) -> Face:
    """A font with the characters of `text`: the file at `path`, or a font of the system.  AskedError if there is none."""
    wanted = [c for c in dict.fromkeys(text) if not c.isspace() and c.isprintable()]
    if path is not None:
        try:
            missing = _missing(Face(path), wanted)
        except OSError as error:
            raise AskedError(f"font {path!r} cannot be read ({error}); pass a .ttf, .otf or .ttc file") from error
        if not _serves(missing, wanted):
            raise AskedError(
                f"font {path!r} lacks {len(missing)} of the {len(wanted)} characters ({_some(missing)}); "
                f"pass a font that has them with --font FILE"
            )
        return Face(path)
    wide = [c for c in wanted if cell_len(c) == 2]
    for face in _system_fonts(wide):
        try:
            if _serves(_missing(face, wanted), wanted):
                return face
        except OSError:
            continue
    if _serves(_missing(Face(None), wanted), wanted):
        return Face(None)
    raise AskedError(
        f"no font of this system has the characters {_some(wide or wanted)}; install one (on Debian: "
        f"apt install fonts-noto-cjk) or pass --font FILE"
    )


def _serves(missing: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a font is good enough: one character in twenty may be missing, since rare characters often are."""
    return len(missing) * 20 <= len(wanted)


def _some(characters: Sequence[str]) -> str:
    return "".join(characters[:8]) + ("…" if len(characters) > 8 else "")


def _missing(face: Face, wanted: Sequence[str]) -> list[str]:
    """The characters that look in this font like a code point that does not exist."""
    font = _font(face, 16)
    nothing = bytes(font.getmask("\U0010fffe"))
    return [c for c in wanted if bytes(font.getmask(c)) == nothing]


FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
NAMES: tuple[str, ...] = (
    "NotoSerifCJK",
    "NotoSansCJK",
    "SourceHanSerif",
    "SourceHanSans",
    "Songti",
    "PingFang",
    "STHeiti",
)
NAMES += ("Hiragino", "simsun", "msyh", "simhei", "wqy", "uming", "ukai", "DroidSansFallback")
LATIN = ("DejaVuSansMono.ttf", "LiberationMono-Regular.ttf", "Menlo.ttc", "consola.ttf", "cour.ttf")


def _system_fonts(wide: Sequence[str]) -> Iterator[Face]:
    """Fonts that may have these characters: the one that fontconfig names, then those in the usual folders."""
    yield from _fontconfig(wide)
    names = NAMES if wide else LATIN
    for folder in FOLDERS:
        files = sorted(p for p in Path(os.path.expanduser(folder)).rglob("*.[to]t[fc]") if p.name.startswith(names))
        yield from (Face(str(p)) for p in files)


def _fontconfig(wide: Sequence[str]) -> Iterator[Face]:
    charset = " ".join(f"{ord(c):x}" for c in wide[:200])
    pattern = f":lang=zh-cn:charset={charset}" if wide else "monospace"
    try:
        command = ["fc-match", "--format", "%{file}\n%{index}", pattern]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        path, index = result.stdout.split("\n")
        yield Face(path, int(index) & 0xFFFF)  # the rest of the number names a variation
    except (OSError, ValueError, subprocess.SubprocessError):
        return


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise AskedError("PNG and GIF need Pillow; pip install 'textdiff[plot]', or ask for SVG or HTML") from error
    return Image, ImageDraw, ImageFont
