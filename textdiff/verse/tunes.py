"""The tones and rhymes of a tune of 词, as an expression that the whole text matches (`shaping.match`).

A character fits 平 if it has a level reading, and 仄 if it has an oblique one; 中 is every character.  At the end of a line that
rhymes one reading must fit the tone and the 部 of 词林正韵 at once.  Lines of one letter share a 部, and may end in the same
character.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache

from textdiff.core.errors import AskedError
from textdiff.shaping.match.expression import Chars, Either, Expression, Then
from textdiff.verse.forms import Form, TuneLine
from textdiff.verse.sounds import SONG_RHYMES, all_rhymes, characters_of

BREAK = Chars(frozenset("\n"))
ANY = Chars(frozenset("\n"), other=True)
TONES = {"平": "平", "仄": "上去入", "中": ""}  # the tones of a mark; none: every character


@lru_cache(maxsize=32)  # anyone may write a tune
def pattern_of(form: Form, tones: bool, rhyme: bool) -> Expression:
    """What the lines of a form with a tune match, a line break between two of them: its tones, its rhymes, or both."""
    if not rhyme:
        return _lines(form.tune, tones, None)
    parts: list[Expression] = []
    for letter, lines in _blocks(form):
        choices = [_lines(lines, tones, groups) for groups in _groups(letter, lines)]
        parts += [BREAK] * bool(parts) + [Either(tuple(choices)) if len(choices) > 1 else choices[0]]
    return Then(tuple(parts))


def _blocks(form: Form) -> Iterator[tuple[str, tuple[TuneLine, ...]]]:
    """The lines in blocks of one rhyme, with its letter; the last lines without rhyme are a block as well."""
    letters = [line.rhyme for line in form.tune]
    start = 0
    for letter in dict.fromkeys(filter(None, letters)):
        stop = len(letters) - letters[::-1].index(letter)
        if start > letters.index(letter) or set(letters[start:stop]) - {letter, ""}:
            raise AskedError(
                f"the rhymes of tune {form.chinese} are {''.join(letters)!r}; let one end before the next begins"
            )
        yield letter, form.tune[start:stop]
        start = stop
    if start < len(letters):
        yield "", form.tune[start:]


def _groups(letter: str, lines: tuple[TuneLine, ...]) -> list[frozenset[str]]:
    """The groups of each 部 in which lines of a letter can rhyme."""
    asked = {tone for line in lines if line.rhyme for tone in TONES[line.tones[-1]] or "平上去入"}
    if not letter:
        return [frozenset()]
    parts = [frozenset(part[0] + group for part in one.split() for group in part[1:]) for one in SONG_RHYMES]
    return [groups for groups in parts if any(group[0] in asked for group in groups)]


def _lines(lines: tuple[TuneLine, ...], tones: bool, groups: frozenset[str] | None) -> Expression:
    parts: list[Expression] = []
    for line in lines:
        parts += [BREAK] * bool(parts)
        for place, mark in enumerate(line.tones, start=1):
            wanted = TONES[mark] if tones else ""
            if groups is not None and line.rhyme and place == len(line.tones):
                parts.append(_reading(frozenset(g for g in groups if not TONES[mark] or g[0] in TONES[mark])))
            else:
                parts.append(_reading(frozenset(g for g in all_rhymes() if g[0] in wanted)) if wanted else ANY)
    return Then(tuple(parts))


@cache
def _reading(groups: frozenset[str]) -> Chars:
    return Chars(characters_of(groups))
