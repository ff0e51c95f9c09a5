"""Statements of three values, and tones against the templates of the sequences.

A statement is True or False if it is so under every choice of readings, and None else.  Tones are p, z, or ? for either.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from textdiff.verse.checker.readings import ANY, Choices, classes_of
from textdiff.verse.forms import SEQUENCES, Form, line_template, line_types

Truth = bool | None


def in_one_class(ends: Sequence[Choices]) -> Truth:
    """Whether one class of `sounds.NEIGHBOURS` holds all rhyme words."""
    sure = [frozenset.intersection(*map(classes_of, choices)) if choices else frozenset() for choices in ends]
    may = [frozenset[int]().union(*map(classes_of, choices or ANY)) for choices in ends]
    return True if frozenset.intersection(*sure) else None if frozenset.intersection(*may) else False


def meets(tone: str, mark: str) -> Truth:
    return True if mark == "·" else None if tone == "?" else tone == mark


def either(one: Truth, other: Truth) -> Truth:
    return True if one or other else None if None in (one, other) else False


def every(values: Iterable[Truth]) -> Truth:
    """Whether all statements hold, if they are about different characters: False if one is, else None if one is."""
    values = tuple(values)
    return False if False in values else None if None in values else True


# Line type -> (lines further down, mark): position 4 may be off, if position 3 of the line that far down has this mark.
RESCUE = {"b": (0, "z"), "a": (1, "p")}


def plain_tones(tones: Sequence[str], types: str) -> list[list[Truth]]:
    """Whether each position meets its mark in the template, line by line."""
    templates = [line_template(kind, len(line)) for kind, line in zip(types, tones, strict=True)]
    return [list(map(meets, line, template)) for line, template in zip(tones, templates, strict=True)]


def rescued_tones(tones: Sequence[str], types: str) -> list[list[Truth]]:
    """`plain_tones`, where position 4 is also met by what makes it good (特拗, 大拗)."""
    met = plain_tones(tones, types)
    for k, kind in enumerate(types):
        if kind in RESCUE:
            further, mark = RESCUE[kind]
            met[k][-2] = either(met[k][-2], meets(tones[k + further][-3], mark))
    return met


def line_types_of(tones: Sequence[str], rhymes: Truth) -> tuple[str, bool]:
    """The line types of the best sequence, and whether the first line's end is open to both of its two openings."""

    def misses(opening: str) -> tuple[int, int]:
        types = line_types(opening, len(tones))
        rescued, plain = (
            [truth for line in met(tones, types) for truth in line] for met in (rescued_tones, plain_tones)
        )
        return rescued.count(False), plain.count(False)

    best = min(SEQUENCES, key=misses)
    if tones[0][-1] != "?":
        return line_types(best, len(tones)), False
    other = best[0].swapcase() + best[1:]
    if misses(other) == misses(best) and rhymes is not None and best[0].isupper() != rhymes:
        best, other = other, best
    types, others = (line_types(opening, len(tones)) for opening in (best, other))
    return types, rescued_tones(tones, types)[0][:-1] == rescued_tones(tones, others)[0][:-1]


def in_octave(
    tones: Sequence[str], form: Form, host: Form
) -> tuple[tuple[str, ...], list[list[Truth]], list[list[Truth]]]:
    """The best templates of the lines of a form that is a part of an octave, and their plain and rescued tones (特拗 alone)."""
    starts = (*form.starts(), form.length)
    lines = [form.cells[first:end] for first, end in itertools.pairwise(starts)]

    def judged(opening: str) -> tuple[tuple[str, ...], list[list[Truth]], list[list[Truth]]]:
        types = line_types(opening, host.lines)
        whole = "".join(line_template(kind, host.width) for kind in types)
        templates = tuple("".join(whole[cell] for cell in line) for line in lines)
        plain = [list(map(meets, line, template)) for line, template in zip(tones, templates, strict=True)]
        met = [list(line) for line in plain]
        for k, line in enumerate(lines):
            for i, cell in enumerate(line):
                if i and types[cell // host.width] == "b" and (cell + 2) % host.width == 0:
                    met[k][i] = either(plain[k][i], meets(tones[k][i - 1], RESCUE["b"][1]))
        return templates, plain, met

    return min(
        map(judged, SEQUENCES),
        key=lambda found: [[t for line in truths for t in line].count(False) for truths in (found[2], found[1])],
    )
