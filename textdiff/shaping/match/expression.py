"""Regular expressions: a small part of what Python's `re` reads, with the same meaning, as syntax trees.

    a 春 \\.            a character; behind a backslash a sign stands for itself, and \\n \\t \\r for what Python takes them for
    .                  any character but a line break; with (?s) at the very beginning any character
    [abc] [^a-z\\d]     one of these, or none of them
    \\d \\w \\s           a decimal digit, a letter or digit or _, white space; \\D \\W \\S any other character
    xy  x|y  (x)       one after the other, either, a group; (?:x) is the same
    x* x+ x?           any number, at least one, at most one
    x{3} x{2,} x{,4} x{2,4}

A text matches if the whole of it does (`re.fullmatch`), so that ^ and $ would say nothing and are refused, and so is what no
automaton can check: back references, looking ahead and behind, and possessive or lazy repetition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from textdiff.core.errors import AskedError

LONGEST = 20_000  # characters of an expression
DEEPEST = 50  # groups inside groups
MOST_REPEATS = 1_000  # the largest number in braces

KINDS: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}


@dataclass(frozen=True)
class Chars:
    """A set of characters."""

    single: frozenset[str] = frozenset()
    ranges: tuple[tuple[str, str], ...] = ()  # (first, last)
    kinds: tuple[str, ...] = ()  # d, w, s; in upper case what is not of the kind
    other: bool = False  # whether the set is of all other characters

    def __contains__(self, character: object) -> bool:
        c = str(character)
        inside = (
            c in self.single
            or any(low <= c <= high for low, high in self.ranges)
            or any(KINDS[kind.lower()](c) == kind.islower() for kind in self.kinds)
        )
        return inside != self.other


@dataclass(frozen=True)
class Then:
    """One part after the other; no part at all is the empty text."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Either:
    """One of several."""

    options: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """A part `least` to `most` times; None: any number above."""

    part: Expression
    least: int
    most: int | None


Expression = Chars | Then | Either | Repeat

LINE_BREAK = frozenset("\n")
REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def containing(text: str) -> Expression:
    """Any text in which `text` stands somewhere."""
    anything = Repeat(Chars(other=True), 0, None)
    return Then((anything, *(Chars(frozenset(character)) for character in text), anything))


def parse(text: str, name: str = "match") -> Expression:
    """The syntax tree of an expression; AskedError for what is none, or is not of the part that we read."""
    if len(text) > LONGEST:
        raise AskedError(f"{name} has {len(text)} characters; write at most {LONGEST}")
    reader = _Reader(text, text.startswith("(?s)"), name)
    found = reader.either(0)
    if not reader.at_end:
        reader.fail("this ) closes no group", "leave it out, or write \\)")
    return found


class _Reader:
    """Reads an expression from left to right (recursive descent)."""

    def __init__(self, text: str, anything: bool, name: str):
        self.text, self.name = text, name
        self.at = 4 if anything else 0
        self.dot = Chars(other=True) if anything else Chars(LINE_BREAK, other=True)

    @property
    def at_end(self) -> bool:
        return self.at >= len(self.text)

    def fail(self, what: str, way: str, at: int | None = None) -> NoReturn:
        place = (self.at if at is None else at) + 1
        shown = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        raise AskedError(f"{self.name} is {shown!r}, and at character {place} {what}; {way}")

    def next(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def comes(self, sign: str) -> bool:
        """Whether `sign` comes next; it is read if so."""
        found = self.text.startswith(sign, self.at)
        self.at += len(sign) * found
        return found

    def either(self, depth: int) -> Expression:
        if depth > DEEPEST:
            self.fail("groups lie too deep in one another", f"nest at most {DEEPEST}")
        options = [self.sequence(depth)]
        while self.comes("|"):
            options.append(self.sequence(depth))
        return options[0] if len(options) == 1 else Either(tuple(options))

    def sequence(self, depth: int) -> Expression:
        parts: list[Expression] = []
        while not self.at_end and self.text[self.at] not in "|)":
            parts.append(self.repeated(depth))
        return parts[0] if len(parts) == 1 else Then(tuple(parts))

    def repeated(self, depth: int) -> Expression:
        part = self.single(depth)
        bounds = self.bounds()
        if bounds is None:
            return part
        if not self.at_end and self.text[self.at] in "*+?{":
            self.fail("something is repeated twice", "put the first repetition into a group, such as (?:a*)*")
        return Repeat(part, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        """The numbers of the repetition that comes next; None where none does."""
        if self.at_end:
            return None
        start = self.at
        if self.text[start] in REPEATS:
            return REPEATS[self.next()]
        if not self.comes("{"):
            return None
        inside, closed, _ = self.text[self.at :].partition("}")
        low, comma, high = inside.partition(",")
        numbers = all(part == "" or (part.isascii() and part.isdecimal()) for part in (low, high))
        if not closed or not numbers or not (low or (comma and high)):
            self.fail("a brace opens no number of repetitions", "write {3}, {2,}, {,4} or {2,4}, or \\{", start)
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > MOST_REPEATS:
            self.fail(
                f"a part is repeated {max(least, most or 0)} times", f"repeat at most {MOST_REPEATS} times", start
            )
        if most is not None and least > most:
            self.fail("the larger number comes first", f"write {{{most},{least}}}", start)
        self.at += len(inside) + 1
        return least, most

    def single(self, depth: int) -> Expression:
        """A character, a set of them, or a group."""
        start, sign = self.at, self.next()
        if sign == "(":
            if self.comes("?") and not self.comes(":"):
                self.fail(
                    "a group is of a kind that is not read here", "use (…) or (?:…), and (?s) first of all", start
                )
            found = self.either(depth + 1)
            if not self.comes(")"):
                self.fail("a group begins that does not end", "close it by ), or write \\(", start)
            return found
        if sign == "[":
            return self.set(start)
        if sign == ".":
            return self.dot
        if sign == "\\":
            return self.escaped(start)
        if sign in "^$":
            self.fail(
                f"{sign} stands for an end, and ends are not read here", f"leave it out, or write \\{sign}", start
            )
        if sign in "*+?{":
            self.fail(f"{sign} repeats nothing", f"write what is repeated before it, or \\{sign}", start)
        return Chars(frozenset(sign))

    def escaped(self, start: int) -> Chars:
        """What a backslash stands for together with the sign behind it."""
        if self.at_end:
            self.fail("a backslash stands before nothing", "write \\\\ for a backslash", start)
        sign = self.next()
        if sign.lower() in KINDS:
            return Chars(kinds=(sign,))
        if sign in CONTROLS:
            return Chars(frozenset(CONTROLS[sign]))
        if sign.isascii() and sign.isalnum():
            self.fail(
                f"\\{sign} is not read here", f"write {sign} alone, or one of \\d \\w \\s \\D \\W \\S \\n \\t", start
            )
        return Chars(frozenset(sign))

    def set(self, start: int) -> Chars:
        """[…], whose bracket is read."""
        other = self.comes("^")
        single: set[str] = set()
        ranges: list[tuple[str, str]] = []
        kinds: list[str] = []
        first = True
        while first or not self.comes("]"):
            if self.at_end:
                self.fail("a set begins that does not end", "close it by ], or write \\[", start)
            low = self.member()
            if low.kinds:
                kinds += low.kinds
            elif self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                high = Chars(kinds=("d",)) if self.at_end else self.member()
                ends = [*low.single, *high.single]
                if high.kinds or ends[0] > ends[1]:
                    self.fail("a range has no end, or ends before it begins", "write a-z, or \\- for the sign", start)
                ranges.append((ends[0], ends[1]))
            else:
                single |= low.single
            first = False
        return Chars(frozenset(single), tuple(ranges), tuple(kinds), other)

    def member(self) -> Chars:
        """A character of a set, or a kind."""
        start, sign = self.at, self.next()
        return self.escaped(start) if sign == "\\" else Chars(frozenset(sign))
