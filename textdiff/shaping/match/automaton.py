"""Deterministic automata: of a regular expression over characters, and what whole tokens do in one.

The expression becomes an automaton with ε-moves (Thompson, 1968), and that the deterministic one of its sets of states.  Characters
that no set of the expression tells apart are one class, so that the table has as many columns as there are classes.

A token is read character by character.  What it is to the automaton is then a map from states to states, and tokens with the same
map are one class as well: of a vocabulary of thousands few classes are left, and everything that follows counts in those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from textdiff.core.errors import AskedError
from textdiff.shaping.match.expression import Chars, Either, Expression, Repeat, Then
from textdiff.shaping.match.kept import Kept

MOST_PARTS = 40_000  # characters and sets of an expression, every repetition written out
MOST_MOVES = 1_500_000  # of nodes, while the deterministic automaton is made
MOST_STATES = 8_000  # of the deterministic automaton
MOST_ENTRIES = 1 << 24  # states times classes, of characters or of tokens
Table = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over the characters of an alphabet; S states, the first of them the start.

    State S is the one from which nothing is accepted any more.
    """

    following: Table  # (S + 1, C) the state that a class of characters leads to
    accepts: NDArray[np.bool_]  # (S + 1,)
    class_of: dict[str, int]  # the class of each character of the alphabet

    @property
    def states(self) -> int:
        """S."""
        return len(self.following) - 1

    def after(self, text: str) -> Table:
        """The state after a text, from each state, (S + 1,)."""
        state = np.arange(self.states + 1)
        for character in text:
            state = self.following[state, self.class_of[character]]
        return state

    def matches(self, text: str) -> bool:
        """Whether the whole of a text is accepted."""
        return bool(self.accepts[self.after(text)[0]])

    def found(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the matches in a text begin and end: from left to right, each the longest that begins there, and none empty."""
        letters, ends = np.array([self.class_of[c] for c in text]), [0] * len(text)
        begins, states = np.arange(len(text)), np.zeros(len(text), dtype=np.int64)
        for read in range(len(text)):  # from all places at once
            states = self.following[states, letters[begins + read]]
            for begin in begins[self.accepts[states]].tolist():
                ends[begin] = begin + read + 1
            goes_on = (states < self.states) & (begins + read + 1 < len(text))
            begins, states = begins[goes_on], states[goes_on]
        at = 0
        while at < len(text):
            if ends[at]:
                yield at, ends[at]
            at = max(at + 1, ends[at])


_AUTOMATA: Kept[Automaton] = Kept(64 << 20)
_TOKENS: Kept[Tokens] = Kept(128 << 20, count=16)


def automaton(expression: Expression, alphabet: frozenset[str]) -> Automaton:
    """The automaton of an expression over the characters of an alphabet; AskedError where it would be too large."""
    return _AUTOMATA.get((expression, alphabet), lambda: _automaton(expression, alphabet))


def _automaton(expression: Expression, alphabet: frozenset[str]) -> Automaton:
    nodes = _Nodes()
    start, end = nodes.add(), nodes.add()
    nodes.connect(expression, start, end)
    sets = list(dict.fromkeys(one for one in nodes.sets if one is not None))
    class_of, members = _classes(sets, alphabet)
    number = {one: k for k, one in enumerate(sets)}
    classes = [[c for c, inside in enumerate(members) if number[one] in inside] if one else [] for one in nodes.sets]
    return _determined(nodes, classes, len(members), start, end, class_of)


def _classes(sets: Sequence[Chars], alphabet: frozenset[str]) -> tuple[dict[str, int], list[frozenset[int]]]:
    """The class of each character, and for each class the sets (by number) that hold its characters."""
    alone: dict[str, set[int]] = {}  # sets that are a mere list of characters, by these
    others = []
    for k, one in enumerate(sets):
        if one.other or one.ranges or one.kinds:
            others.append(k)
        else:
            for character in one.single & alphabet:
                alone.setdefault(character, set()).add(k)
    index: dict[frozenset[int], int] = {}
    class_of = {}
    for character in sorted(alphabet):
        inside = frozenset(alone.get(character, set()) | {k for k in others if character in sets[k]})
        class_of[character] = index.setdefault(inside, len(index))
    return class_of, list(index)


class _Nodes:
    """An automaton with ε-moves under construction: a node reads a set of characters, or moves on without reading."""

    def __init__(self) -> None:
        self.sets: list[Chars | None] = []
        self.goes: list[list[int]] = []
        self.known: dict[int, int] = {}
        self.moves = 0

    def add(self) -> int:
        """A new node, which leads nowhere so far."""
        if len(self.sets) > MOST_PARTS:
            raise AskedError(
                f"the expression comes to more than {MOST_PARTS} parts once its repetitions are written out; shorten it"
            )
        self.sets.append(None)
        self.goes.append([])
        return len(self.sets) - 1

    def connect(self, part: Expression, start: int, end: int) -> None:
        """Ways from `start` to `end` that read what matches `part`."""
        if isinstance(part, Chars):
            node = self.add()
            self.sets[node] = part
            self.goes[start].append(node)
            self.goes[node].append(end)
        elif isinstance(part, Then):
            for k, one in enumerate(part.parts):
                stop = end if k == len(part.parts) - 1 else self.add()
                self.connect(one, start, stop)
                start = stop
            if not part.parts:
                self.goes[start].append(end)
        elif isinstance(part, Either):
            for one in part.options:
                first, last = self.add(), self.add()
                self.connect(one, first, last)
                self.goes[start].append(first)
                self.goes[last].append(end)
        else:
            self._repeat(part, start, end)

    def _repeat(self, part: Repeat, start: int, end: int) -> None:
        for _ in range(part.least):
            stop = self.add()
            self.connect(part.part, start, stop)
            start = stop
        if part.most is None:
            first, last = self.add(), self.add()
            self.connect(part.part, first, last)
            self.goes[start] += [first, end]
            self.goes[last] += [first, end]
            return
        for _ in range(part.most - part.least):
            self.goes[start].append(end)
            stop = self.add()
            self.connect(part.part, start, stop)
            start = stop
        self.goes[start].append(end)

    def reached(self, start: int) -> int:
        """What can be reached from a node without reading: nodes that read, and dead ends, as bits."""
        if start not in self.known:
            seen, waiting, found = {start}, [start], 0
            while waiting:
                node = waiting.pop()
                if self.sets[node] is not None or not self.goes[node]:
                    found |= 1 << node
                    continue
                fresh = [k for k in self.goes[node] if k not in seen]
                seen.update(fresh)
                waiting += fresh
            self.known[start] = found
            self.spend(len(seen))
        return self.known[start]

    def spend(self, moves: int) -> None:
        """Count moves; AskedError where there are too many of them."""
        self.moves += moves
        if self.moves > MOST_MOVES:
            raise AskedError(
                "the expression leaves too many ways open, one part behind the other; write fewer parts such as (a?){500}"
            )


def _determined(
    nodes: _Nodes, classes: Sequence[Sequence[int]], size: int, start: int, end: int, class_of: dict[str, int]
) -> Automaton:
    """The deterministic automaton over `size` classes, of which `classes` names those that each node reads."""
    states = [nodes.reached(start)]
    index = {states[0]: 0}
    rows: list[list[int]] = []
    for state in states:  # the list grows while it is walked
        leads = [0] * size
        for node in _bits(state):
            for goal in nodes.goes[node] if nodes.sets[node] is not None else ():
                reached = nodes.reached(goal)
                nodes.spend(len(classes[node]))
                for c in classes[node]:
                    leads[c] |= reached
        row = []
        for goal in leads:
            if goal and goal not in index:
                index[goal] = len(states)
                states.append(goal)
                if len(states) > MOST_STATES or len(states) * size > MOST_ENTRIES:
                    raise AskedError(
                        f"the expression needs more than {MOST_STATES} states to be checked from left to right; let it count less, "
                        f"above all behind parts that overlap, such as .*a.{{20}}"
                    )
            row.append(index[goal] if goal else -1)
        rows.append(row)
    following = np.array([*rows, [-1] * size], dtype=np.int64).reshape(len(states) + 1, size)
    accepts = np.array([bool(state >> end & 1) for state in states] + [False])
    return _trimmed(np.where(following < 0, len(states), following), accepts, class_of)


def _bits(state: int) -> list[int]:
    found = []
    while state:
        low = state & -state
        found.append(low.bit_length() - 1)
        state ^= low
    return found


def _trimmed(following: Table, accepts: NDArray[np.bool_], class_of: dict[str, int]) -> Automaton:
    """The automaton without states from which nothing is accepted; the start stays."""
    useful = accepts.copy()
    while True:
        more = useful | useful[following].any(-1)
        if (more == useful).all():
            break
        useful = more
    useful[0], useful[-1] = True, False
    number = np.where(useful, np.cumsum(useful) - 1, useful.sum())
    keep = useful.copy()
    keep[-1] = True
    return Automaton(number[following][keep], accepts[keep], class_of)


@dataclass(frozen=True, eq=False)
class Spelling:
    """The characters of the tokens of a vocabulary.

    Which characters a token adds to a text may depend on where it stands, so that a vocabulary has one or more *forms*; where a form
    has "" for a token, that token is not written in it.
    """

    forms: tuple[tuple[str, ...], ...]  # (forms, V)

    @cached_property
    def alphabet(self) -> frozenset[str]:
        """All characters, and those that are likely beside them."""
        return frozenset("".join("".join(form) for form in self.forms)) | frozenset(map(chr, range(128)))


@dataclass(frozen=True, eq=False)
class Tokens:
    """What tokens do in an automaton; K classes, of which class 0 holds the tokens that are never written."""

    automaton: Automaton
    of_token: Table  # (V,) the class of each token
    following: Table  # (forms, S + 1, K) where a class leads in each form
    written: NDArray[np.bool_]  # (forms, K) whether a class is written in a form


def tokens_in(machine: Automaton, spelling: Spelling) -> Tokens:
    """The tokens of a vocabulary in an automaton over its characters."""
    return _TOKENS.get((machine, spelling), lambda: _tokens_in(machine, spelling))


def _tokens_in(machine: Automaton, spelling: Spelling) -> Tokens:
    parts = [_of_form(machine, form) for form in spelling.forms]
    index: dict[tuple[int, ...], int] = {(0,) * len(parts): 0}
    of_token = [index.setdefault(kinds, len(index)) for kinds in zip(*(kind for _, kind in parts), strict=True)]
    chosen = np.array(list(index)).T  # (forms, K) the class of each form
    following = np.stack([columns[kinds].T for (columns, _), kinds in zip(parts, chosen, strict=True)])
    return Tokens(machine, np.array(of_token), following, chosen > 0)


def _of_form(machine: Automaton, texts: Sequence[str]) -> tuple[Table, list[int]]:
    """Where each class of tokens leads, (K, S + 1), and the class of each of `texts` (V,); class 0 is that of ""."""
    letter = machine.class_of
    reads = [tuple(letter[c] for c in text) for text in texts]
    nowhere = np.full(machine.states + 1, machine.states)
    columns = [nowhere]
    index: dict[bytes, int] = {}
    kind: dict[tuple[int, ...], int] = {(): 0}
    states = [np.arange(machine.states + 1)]  # after each beginning of the text before
    before: tuple[int, ...] = ()
    for read in sorted({one for one in reads if one}):
        same = next(
            (k for k, (a, b) in enumerate(zip(before, read, strict=False)) if a != b), min(map(len, (before, read)))
        )
        del states[same + 1 :]
        for c in read[same:]:
            states.append(machine.following[states[-1], c])
        before, key = read, states[-1].tobytes()
        if key not in index:
            index[key] = len(columns)
            columns.append(states[-1])
            _check_size(len(columns) * len(nowhere))
        kind[read] = index[key]
    return np.stack(columns), [kind[read] for read in reads]


def _check_size(entries: int) -> None:
    if entries > MOST_ENTRIES:
        raise AskedError(
            "the expression tells too many tokens apart in too many states; write sets such as [a-z] for what can be alike"
        )


def distinct(rows: Table) -> tuple[Table, Table]:
    """The index of the first of each kind of equal rows, in their order, and for each row the number of its kind."""
    index: dict[bytes, int] = {}
    first, kind = [], []
    for k, row in enumerate(rows):
        key = row.tobytes()
        if key not in index:
            index[key] = len(index)
            first.append(k)
        kind.append(index[key])
    return np.array(first, dtype=np.int64), np.array(kind, dtype=np.int64)
