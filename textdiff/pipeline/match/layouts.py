"""What a text is made of, for an expression that it is to match: which characters stand between its tokens, and how tokens read.

What stands between the holes of running text stands in the text as it is printed.  A poem is read as its lines, with a line break
between them and without punctuation.

How a token reads depends on where it stands, in one of these *forms*:

    CHARACTER    in a poem, where a token is one character
    PLAIN        in a hole of running text: its characters, in a vocabulary that does not tell where words begin or a new word
    CONTINUED    in such a hole, the rest of a word (##s), which takes a single space before it away
    SPACED       in such a hole, the beginning of a word (Ġcat, ▁cat), which brings a space where none stands
    FIRST, NEXT  where all is open, first of all and behind another token: as the tokenizer puts tokens together
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from textdiff.shaping.match.trellis import Layout, Place

CHARACTER, PLAIN, CONTINUED, SPACED, FIRST, NEXT = FORMS = range(6)


@lru_cache(maxsize=64)
def of_lines(positions: tuple[int, ...], starts: tuple[int, ...]) -> Layout:
    """A poem whose lines begin with the characters `starts`; made once for all poems of a form."""
    return Layout(tuple(Place(p, ((CHARACTER, "\n" * (k in starts[1:])),)) for k, p in enumerate(positions)))


def stays(before: str) -> bool:
    """Whether the white space at the end of what stands before a hole is the text's own: a single space is the hole's."""
    return before[-1:].isspace() and (before[-1] != " " or before[-2:-1].isspace())


def of_holes(text: str, spans: Sequence[tuple[int, int, int]], *, strip: bool = False) -> Layout:
    """Running text with holes, each (begin, end, position of its token); `strip` takes the white space at its start away."""
    places: list[Place] = []
    done = 0
    for begin, stop, position in spans:
        literal = text[done:begin].lstrip() if strip and not places else text[done:begin]
        at_start = not places and not literal
        space = "" if at_start or literal[-1:].isspace() else " "
        ways = [(PLAIN, literal), (SPACED, literal + space)]
        if not stays(literal):
            ways.append((CONTINUED, literal.rstrip()))
        places.append(Place(position, tuple(ways)))
        done = stop
    ending = text[done:]
    return Layout(tuple(places), ending.lstrip() if strip and not places else ending)


def of_open(start: int, length: int, *, strip: bool = False) -> Layout:
    """`length` open tokens from position `start` on; `strip` takes the white space at their start away."""
    first = ((PLAIN, ""), (SPACED, "")) if strip else ((FIRST, ""),)
    return Layout(tuple(Place(start + k, ((NEXT, ""),) if k else first) for k in range(length)))


def joined(layouts: Sequence[Layout], between: str) -> Layout:
    """One layout behind the other, and a text between them."""
    places: list[Place] = []
    before = ""
    for k, one in enumerate(layouts):
        before += between * (k > 0)
        for place in one.places:
            places.append(Place(place.position, tuple((form, before + literal) for form, literal in place.ways)))
            before = ""
        before += one.ending
    return Layout(tuple(places), before)
