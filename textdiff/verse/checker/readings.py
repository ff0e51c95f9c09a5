"""Which readings each character of a poem may have: what the table says, cut down by what a person decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textdiff.core.errors import AskedError
from textdiff.verse.checker.findings import HOLES, Place
from textdiff.verse.script import available, simplified
from textdiff.verse.sounds import Reading, all_rhymes, neighbour_classes, readings

ANY = (Reading("平", ""), Reading("仄", ""))  # a character without readings: any tone, any rhyme
Choices = tuple[Reading, ...]


def choices_of(lines: Sequence[str], pronounce: Mapping[int | str, str | Reading]) -> list[list[Choices]]:
    """The readings that every character may have, after what `pronounce` decides."""
    choices = [[_readings_of(character) for character in line] for line in lines]
    places = [(k, i) for k, line in enumerate(lines) for i in range(len(line))]
    for key, value in pronounce.items():
        for k, i in _named(key, lines, places):
            choices[k][i] = _decided(lines[k][i], choices[k][i], value, f"{k + 1}:{i + 1}")
    return choices


def _readings_of(character: str) -> Choices:
    if character in HOLES:
        return ()
    known = readings(character)
    return known if known or not available() else readings(simplified(character))


def _named(key: int | str, lines: Sequence[str], places: Sequence[Place]) -> list[Place]:
    if isinstance(key, int):
        if not 1 <= key <= len(places):
            raise AskedError(f"a reading is given for character {key}, but the text has {len(places)}; count from 1")
        return [places[key - 1]]
    line, colon, position = key.strip().partition(":")
    if colon and line.isdecimal() and position.isdecimal():
        place = int(line) - 1, int(position) - 1
        if place not in places:
            widths = sorted({len(line) for line in lines})
            raise AskedError(
                f"a reading is given for {key!r}, but the text has {len(lines)} lines of "
                f"{' or '.join(map(str, widths))} characters; pass LINE:POSITION, both from 1"
            )
        return [place]
    found = [(k, i) for k, i in places if lines[k][i] == key.strip()]
    if not found:
        raise AskedError(
            f"a reading is given for {key!r}, which is neither LINE:POSITION nor a character of the text; "
            f"pass one of them, such as 3:5"
        )
    return found


def _decided(character: str, choices: Choices, value: str | Reading, place: str) -> Choices:
    wanted = "".join(value).strip()
    tone, group = wanted[:1], wanted[1:]
    if wanted in all_rhymes():
        return (Reading(tone, group),)  # a person may know what the table does not
    kinds = {"平": "平", "仄": "上去入仄", "上": "上", "去": "去", "入": "入"}.get(wanted)
    if kinds is None:
        raise AskedError(
            f"{value!r} is no reading for {character} at {place}; pass a tone (平 上 去 入, or 仄) or a tone and a group "
            f"of 平水韵, such as 平寒"
        )
    kept = tuple(reading for reading in choices if reading.tone in kinds)
    if choices and not kept:
        raise AskedError(
            f"{character} at {place} has no reading {wanted}, only {' '.join(map(''.join, choices))}; "
            f"pass one of these, or tone and group together (such as 平寒) to overrule the table"
        )
    return kept or (Reading(wanted, ""),)


def mark_of(choices: Choices) -> str:
    """p or z, or ? where the character may be read both ways."""
    kinds = {"p" if reading.tone == "平" else "z" for reading in choices or ANY}
    return kinds.pop() if len(kinds) == 1 else "?"


def level_groups(choices: Choices) -> frozenset[str]:
    """The level groups among the readings, with their tone (平阳)."""
    return frozenset(r.tone + r.rhyme for r in choices if r.tone == "平" and r.rhyme)


def classes_of(reading: Reading) -> frozenset[int]:
    """The classes of `sounds.NEIGHBOURS`, by index, that a reading may rhyme in."""
    if reading.tone != "平":
        return frozenset()
    return neighbour_classes(reading.rhyme)  # all of them, if the group is not known
