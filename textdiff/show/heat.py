"""How likely each character of a text is, as coloured pieces of the text and as a table.

The colours run from 0 nats (certain) to TOP nats (one in 22,026), and anything above has the colour of TOP, so that a colour
means the same in every picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.cells import set_cell_size

from textdiff.verse.forms import get_form, split_at_punctuation

TOP = 10  # nats
COLOURS = ((250, 249, 240), (254, 224, 144), (253, 157, 72), (214, 57, 44), (103, 0, 46))  # at even steps from 0 to TOP


class Detailed(Protocol):
    """The part of a `pipeline.Detail` that this module reads."""

    @property
    def text(self) -> str: ...
    @property
    def form(self) -> str | None: ...
    @property
    def characters(self) -> Sequence[str]: ...
    @property
    def nats(self) -> Sequence[float]: ...
    @property
    def best(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Piece:
    """A character (token) with its nats, or the text between two characters, without nats."""

    text: str
    nats: float | None = None
    best: str = ""  # the likeliest character at this place


def pieces(detail: Detailed) -> list[Piece]:
    """The text, cut into its characters (tokens) and what stands between them; the pieces joined are the text.

    Where the text does not contain the tokens as they are written, the pieces are the tokens with spaces between them.
    """
    places = _character_places(detail) or _token_places(detail)
    if places is None:
        tokens = zip(detail.characters, detail.nats, detail.best, strict=True)
        return [piece for c, nats, best in tokens for piece in (Piece(c, nats, best), Piece(" "))][:-1]
    result, end = [], 0
    for (begin, stop), nats, best in zip(places, detail.nats, detail.best, strict=True):
        if end < begin:
            result.append(Piece(detail.text[end:begin]))
        result.append(Piece(detail.text[begin:stop], nats, best))
        end = stop
    return result + ([Piece(detail.text[end:])] if end < len(detail.text) else [])


def _character_places(detail: Detailed) -> list[tuple[int, int]] | None:
    """The places of the characters of a poem, each of which is a token; None for other texts."""
    if detail.form is None:
        return None
    places = [(k, k + 1) for k, c in enumerate(detail.text) if split_at_punctuation(c) == [c]]
    return places if len(places) == len(detail.nats) else None


def _token_places(detail: Detailed) -> list[tuple[int, int]] | None:
    """The places of the tokens in running text, if only white space stands between them; None otherwise."""
    text = detail.text.lower() if len(detail.text.lower()) == len(detail.text) else detail.text
    places, end = [], 0
    for token in detail.characters:
        for name in (token, token.removeprefix("##"), token.lstrip("Ġ▁")):
            begin = text.find(name.lower(), end) if name else -1
            if begin >= 0 and not text[end:begin].strip():
                places.append((begin, begin + len(name)))
                end = begin + len(name)
                break
        else:
            return None
    return places


def colour(nats: float) -> str:
    """The colour of so many nats, #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*_rgb(nats))


def ink(nats: float) -> str:
    """Black or white, whichever can be read on the colour of so many nats."""
    red, green, blue = _rgb(nats)
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "#ffffff"


def _rgb(nats: float) -> tuple[int, ...]:
    place = min(max(nats, 0.0), TOP) / TOP * (len(COLOURS) - 1)
    low = min(int(place), len(COLOURS) - 2)
    share = place - low
    return tuple(round(a + share * (b - a)) for a, b in zip(COLOURS[low], COLOURS[low + 1], strict=True))


def table(detail: Detailed) -> Iterator[str]:
    """The lines of a table: line, place in the line, nats, character, and the likeliest character at that place."""
    yield "line  place    nats  character  likeliest"
    widths = get_form(detail.form).widths if detail.form is not None else ()
    number, place = 1, 0
    for piece in pieces(detail):
        if piece.nats is None:
            if not widths and "\n" in piece.text:
                number, place = number + piece.text.count("\n"), 0
            continue
        if widths and place == widths[number - 1]:
            number, place = number + 1, 0
        place += 1
        yield f"{number:4}  {place:5}  {piece.nats:6.2f}  {set_cell_size(_visible(piece.text), 9)}  {_visible(piece.best)}"
        if not widths and piece.text == "\n":
            number, place = number + 1, 0


def _visible(text: str) -> str:
    return text.replace(" ", "␣") if text.isprintable() else repr(text)[1:-1]
