"""Texts at a terminal: a live display of a run, and texts whose colours show how likely each character is.

Widths are columns of the terminal; a Chinese character takes two.  A hole in a text with such characters takes two columns as
well, so that a poem does not move while it is written.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from textdiff.core.errors import AskedError
from textdiff.show.heat import TOP, Detailed, Piece, colour, ink, pieces
from textdiff.show.trace import HOLE, Onlooker, Shot

WIDE_HOLE = "・"  # every terminal shows this sign in two columns, unlike □
GAP = 4  # columns between texts
NEW, OPEN = "bold black on yellow", "dim"


def marked(text: str, new: Sequence[int] = ()) -> Text:
    """A text with its new characters highlighted and its holes dim."""
    wide = is_wide(text)
    fresh, result = set(new), Text(no_wrap=False)
    for k, character in enumerate(text):
        hole = character == HOLE
        shown = WIDE_HOLE if hole and wide else character
        result.append(shown, style=OPEN if hole else NEW if k in fresh and not character.isspace() else "")
    return result


def is_wide(text: str) -> bool:
    """Whether a character of the text takes two columns."""
    return any(cell_len(character) == 2 for character in text)


def columns(text: str) -> int:
    """The columns of the widest line, with the holes as they are shown."""
    hole = WIDE_HOLE if is_wide(text) else HOLE
    return max(map(cell_len, text.replace(HOLE, hole).split("\n")))


def side_by_side(shot: Shot, width: int, height: int) -> Table:
    """As many texts as fit into `width` columns and `height` rows, and a line about their progress."""
    widest = min(max(map(columns, shot.texts)), width)
    abreast = max(1, (width + GAP) // (widest + GAP))
    tall = (
        1 + max(sum(max(1, math.ceil(cell_len(s) / widest)) for s in t.split("\n")) for t in shot.texts)
        if widest
        else 2
    )
    shown = min(len(shot.texts), abreast * max(1, (height - 1) // tall))
    grid = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for _ in range(min(abreast, shown)):
        grid.add_column(width=widest, overflow="fold")
    cells = [marked(t, new) for t, new in zip(shot.texts[:shown], shot.changed, strict=False)]
    for first in range(0, shown, abreast):
        if first:
            grid.add_row()
        grid.add_row(*cells[first : first + abreast])
    more = len(shot.texts) - shown
    line = f"{1 - shot.level:4.0%}, {max(shot.forwards)} forwards" + (f", {more} more" if more else "")
    table = Table.grid()
    table.add_row(grid)
    table.add_row(Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
    return table


@contextlib.contextmanager
def watching(stream: TextIO, delay: float = 0.0, console: Console | None = None) -> Iterator[Onlooker]:
    """A live display on the terminal `stream`, which is removed at the end; it rests for `delay` seconds after each state."""
    if not 0 <= delay < math.inf:
        raise AskedError(f"delay is {delay}; it must be a number of seconds, at least 0")
    console = Console(file=stream) if console is None else console
    options: dict[str, Any] = {"auto_refresh": False, "redirect_stdout": False, "redirect_stderr": False}
    with Live(console=console, transient=True, vertical_overflow="crop", **options) as live:

        def look(shot: Shot) -> None:
            live.update(side_by_side(shot, console.width, console.height), refresh=True)
            time.sleep(delay)

        yield look


def coloured(detail: Detailed, stream: TextIO, console: Console | None = None) -> None:
    """Writes a text with every character on the colour of its nats (`Pipeline.detail`)."""
    console = many_colours(stream) if console is None else console
    text = Text()
    for piece in pieces(detail):
        text.append(piece.text, style=_style(piece))
    console.print(text, soft_wrap=True)


def scale(stream: TextIO, console: Console | None = None) -> None:
    """Writes the scale of the colours."""
    console = many_colours(stream) if console is None else console
    text = Text("nats given all the others: ")
    for nats in range(0, TOP + 1, 2):
        text.append(f" {nats}{'+' if nats == TOP else ''} ", style=f"{ink(nats)} on {colour(nats)}")
    console.print(text, soft_wrap=True)


def many_colours(stream: TextIO) -> Console:
    """A console of at least 256 colours: nearly every terminal has them, even one that claims to have 16."""
    console = Console(file=stream, highlight=False)
    return Console(file=stream, highlight=False, color_system="256") if console.color_system == "standard" else console


def _style(piece: Piece) -> str:
    return "" if piece.nats is None else f"{ink(piece.nats)} on {colour(piece.nats)}"
