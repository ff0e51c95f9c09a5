"""What a job may say of how it is done: the options of its verb by their names, each with the values of JSON that it takes.

What a job says stands above what is said for all jobs.  Other keys are the caller's own.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.pipeline.options import CHOICES, LARGEST, MOST_TEXTS, Choice
from textdiff.pipeline.score.template import MOST

PER_TEXT = ("form", "title", "dynasty")  # jobs that differ in these can be worked on in one call


@dataclass(frozen=True)
class Kind:
    """The values that an option takes in JSON."""

    fits: Callable[[Any], bool]
    expected: str


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_kept(value: Any) -> bool:
    return _is_word(value) or (isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)))


def _up_to(most: int) -> Kind:
    return Kind(lambda value: _is_whole(value) and 1 <= value <= most, f"a whole number from 1 to {most}")


WHOLE = Kind(_is_whole, "a whole number")
COUNT = _up_to(MOST_TEXTS)
NUMBER = Kind(_is_number, "a number")
WORD = Kind(_is_word, "text")
TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
OWN = Kind(
    lambda value: isinstance(value, dict) and all(_is_word(one) or _is_number(one) for one in value.values()),
    'an object of numbers and words, such as {"eta": 0.5}',
)
LINES = Kind(_all(_is_whole), "a list of lines, such as [1, 2]")
PLACES = Kind(_all(_is_word), 'a list of places, such as ["3:5"]')

KEPT = Kind(
    lambda value: _is_word(value) or (isinstance(value, list) and all(map(_is_kept, value))),
    'texts that stay and [begin, end] pairs of characters, such as ["Paris", [3, 8]]',
)

REVISION = {
    "rounds": WHOLE,
    "k": WHOLE,
    "patience": WHOLE,
    "keep": LINES,
    "freeze": PLACES,
    "variations": COUNT,
    "level": NUMBER,
}
AUGMENTATION = {"strength": NUMBER, "n": COUNT, "tries": WHOLE, "levels": WHOLE, "keep": KEPT, "keep_pattern": WORD}
SLOTS = Kind(lambda value: isinstance(value, dict), 'an object of candidates, such as {"x": ["cat", "dog"]}')
CHOOSING = {"slots": SLOTS, "compare": WORD, "order": WORD, "limit": _up_to(MOST)}
RESTORING = {"order": WORD, "top": COUNT, "width": COUNT}
SCORING = {"process": WORD, "order": WORD, "steps": WHOLE, "levels": WHOLE, "repeats": WHOLE, "detail": TRUTH}


def drawing(call: str) -> dict[str, Kind]:
    """The fields of `Options` that a call of texts takes."""
    return {name: _kind(name, one) for name, one in CHOICES.items() if one.kind != "image" and call in one.calls}


def _kind(name: str, one: Choice) -> Kind:
    if name == "sampler_options":
        return OWN
    if one.type is int and one.words:
        return Kind(
            lambda value: _is_whole(value) or value in one.words, f"a whole number up to {LARGEST}, or {one.words[0]!r}"
        )
    return {int: WHOLE, float: NUMBER, bool: TRUTH, str: WORD}[one.type]


def said(kinds: Mapping[str, Kind], job: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a job has, without those that are null; AskedError for a value of another kind."""
    result = {}
    for name, kind in kinds.items():
        value = job.get(name)
        if value is None:
            continue
        if not kind.fits(value):
            large = isinstance(value, int) and abs(value) > LARGEST and kind in (WHOLE, NUMBER)
            raise AskedError(f"{name} is {reprlib.repr(value)}; expected {kind.expected}{f' up to {LARGEST}' * large}")
        result[name] = value
    return result
