"""Poems as arrays: code points, an alphabet, n-grams as keys, and look-ups in sorted tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textdiff.core.errors import AskedError

Poem = tuple[str, ...]
Values = NDArray[np.float64]
Integers = NDArray[np.int64]

SYMBOLS = 1 << 16  # different characters of a list of poems; four of them make a 64-bit key


def codes(text: str) -> NDArray[np.uint32]:
    """The code points of a text, (L,)."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def joined(poems: Sequence[Poem]) -> str:
    """All lines of all poems as one text."""
    return "".join(line for poem in poems for line in poem)


def lines_of(poems: Sequence[Poem]) -> NDArray[np.uint32]:
    """Code points of poems of one form, (N, lines, width)."""
    return codes(joined(poems)).reshape(len(poems), len(poems[0]), -1)


def alphabet_of(poems: Sequence[Poem]) -> NDArray[np.uint16]:
    """A number from 1 on for each character of the poems, by code point; 0 for all others."""
    kinds = np.unique(codes(joined(poems)))
    if len(kinds) >= SYMBOLS:
        raise AskedError(
            f"the poems have {len(kinds)} different characters, and fewer than {SYMBOLS} fit; pass fewer poems"
        )
    table = np.zeros(0x110000, dtype=np.uint16)
    table[kinds] = np.arange(1, len(kinds) + 1)
    return table


def grams_of(
    poems: Sequence[Poem], n: int, alphabet: NDArray[np.uint16], *, across: bool = False
) -> tuple[Integers, Integers]:
    """The keys of all n-grams, n ≤ 4, poem after poem, and the poem of each, (M,), (M,); `across`: also over line ends."""
    pieces = [piece for poem in poems for piece in (("".join(poem),) if across else poem)]
    owner = np.repeat(np.arange(len(poems)), [1 if across else len(poem) for poem in poems])
    symbols = alphabet[codes("".join(pieces))].astype(np.int64)
    piece = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    start = np.flatnonzero(piece[: max(0, len(piece) - n + 1)] == piece[n - 1 :])
    keys = np.zeros(len(start), dtype=np.int64)
    for k in range(n):
        keys = (keys << 16) | symbols[start + k]
    return keys, owner[piece[start]]


def find(table: Integers, keys: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The places of keys in a sorted table, and whether the table has them; the places of absent keys are in range, too."""
    place = np.minimum(np.searchsorted(table, keys), max(0, len(table) - 1))
    return place, table[place] == keys if len(table) else np.zeros(keys.shape, dtype=bool)
