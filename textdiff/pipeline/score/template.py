"""A text with slots, each with the words that it may take.

    'the {animal} sat'        a slot of a name            {animal: [cat, dog]}
    '{} is {}'                slots by their numbers      {1: [two, three], 2: [odd, even]}
    '{{'                      a brace

The candidates of a slot are words or numbers, or labels with the words that each is read from: {good: [fine, nice], bad: [poor]}.
A slot that stands twice has the same word in both places.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral, Real
from string import Formatter
from typing import Any

from textdiff.core.errors import AskedError

Label = str | int | float
Candidates = Sequence[Label] | Mapping[str, Label | Sequence[Label]]
Slots = Mapping[Any, Candidates]

MOST = 4096  # texts that are compared


@dataclass(frozen=True)
class Slot:
    """A slot by its name, and its candidates: each a label, and a word that it is read from."""

    name: str
    candidates: tuple[tuple[Label, str], ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(dict.fromkeys(label for label, _ in self.candidates))


@dataclass(frozen=True)
class Written:
    """A template with a word in each slot: the text, the label of each slot, and where the slots stand in the text."""

    text: str
    labels: tuple[Label, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Template:
    """A text in pieces, each a text or the number of a slot."""

    text: str
    pieces: tuple[str | int, ...]
    slots: tuple[Slot, ...]

    @classmethod
    def parse(cls, text: Any, slots: Any, given: Mapping[str, Any] | None = None) -> Template:
        """The template of a text; names that are no slots stand for what is `given`.  AskedError for what cannot be."""
        if not isinstance(text, str):
            raise AskedError(f"template is {text!r}; pass a text with slots, such as 'the {{animal}} sat'")
        known = {slot.name: slot for slot in _slots(slots)}
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise AskedError(f"template {text!r} cannot be read ({error}); write {{{{ for a brace") from None
        numbers, pieces, used = itertools.count(1), list[str | int](), dict[str, int]()
        for literal, field, more, turned in parsed:
            pieces.append(literal)
            if field is None:
                continue
            name = field.strip() or str(next(numbers))
            if more or turned:
                raise AskedError(f"slot {field!r} of template {text!r} has more than a name; write {{{name}}} alone")
            if name in known:
                pieces.append(used.setdefault(name, len(used)))
            elif given is not None and name in given:
                pieces.append(_said(text, name, given[name]))
            else:
                names = ", ".join([*known, *(given or {})]) or "none"
                raise AskedError(f"template {text!r} has a slot {name!r} without candidates; known are {names}")
        unused = [name for name in known if name not in used]
        if unused or not used:
            what = f"no slot {unused[0]!r}" if unused else "no slot"
            raise AskedError(
                f"template {text!r} has {what}; write {{{unused[0] if unused else 'name'}}} where it stands"
            )
        return cls(text, tuple(pieces), tuple(known[name] for name in used))

    @property
    def count(self) -> int:
        """How many texts there are."""
        return math.prod(len(slot.candidates) for slot in self.slots)

    def written(self, limit: int = MOST) -> Iterator[Written]:
        """All texts, in the order of the candidates; AskedError where there are too many."""
        if self.count > limit:
            each = " × ".join(str(len(slot.candidates)) for slot in self.slots)
            raise AskedError(
                f"template {self.text!r} has {self.count} texts ({each} candidates), and at most {limit} are compared; "
                f"pass fewer candidates, choose for some slots first, or raise the limit"
            )
        for chosen in itertools.product(*(slot.candidates for slot in self.slots)):
            text, spans = "", []
            for piece in self.pieces:
                if isinstance(piece, int):
                    word = chosen[piece][1]
                    spans.append((len(text), len(text) + len(word)))
                    text += word
                else:
                    text += piece
            yield Written(text, tuple(label for label, _ in chosen), tuple(spans))


def _said(template: str, name: str, value: Any) -> str:
    """What a record says under a name that stands in a template."""
    if isinstance(value, bool) or not isinstance(value, (str, Real)):
        said = "nothing" if value is None else repr(value)
        raise AskedError(
            f"template {template!r} has {{{name}}}, and the record has {said} there; give it text or a number"
        )
    return str(value)


def merged(slots: Any, more: Mapping[str, Any]) -> Any:
    """Slots, and more of them by their names."""
    return {**slots, **more} if isinstance(slots, Mapping) else slots


def _slots(slots: Any) -> Iterator[Slot]:
    if not isinstance(slots, Mapping):
        raise AskedError(f"slots is {slots!r}; pass a mapping from each slot's name to its candidates")
    for key, candidates in slots.items():
        name, pairs = str(key), tuple(_pairs(str(key), candidates))
        twice = next((word for word, n in Counter(word for _, word in pairs).items() if n > 1), None)
        if len({label for label, _ in pairs}) < 2 or twice is not None:
            what = "fewer than two labels" if twice is None else f"the candidate {twice!r} twice"
            raise AskedError(f"slot {name!r} has {what}; pass at least two, all of them different")
        yield Slot(name, pairs)


def _pairs(name: str, candidates: Any) -> Iterator[tuple[Label, str]]:
    """Each label with each of its words."""
    if isinstance(candidates, Mapping):
        for label, words in candidates.items():
            for word in words if isinstance(words, Iterable) and not isinstance(words, (str, bytes)) else [words]:
                yield str(label), _word(name, word)
    elif isinstance(candidates, Iterable) and not isinstance(candidates, (str, bytes, Set)):
        for label in candidates:
            word = _word(name, label)
            yield label if isinstance(label, str) else int(label) if isinstance(label, Integral) else float(label), word
    else:
        raise AskedError(f"slot {name!r} has as candidates {candidates!r}; pass a list, or labels with their words")


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, Real)):
        raise AskedError(f"slot {name!r} has a candidate {value!r}; pass words or numbers, such as 'yes' and 'no'")
    word = str(value)
    if not word.strip():
        raise AskedError(f"slot {name!r} has a candidate without a word; pass words or numbers")
    return word
