"""Near repeats among poems.

Two poems are near repeats if they share 40 % of the shorter poem's 4-grams (within lines), or if they have the same form and
agree in 60 % of the positions.  There are too many pairs to compare them all, so we look only at pairs that share a key.  A
near repeat shares m of the K keys of a poem, and hence at least one of the K − m + 1 rarest ones; we look up only these:

    4-grams            m = ⌈0.4 K⌉, where K is the number of different 4-grams of the shorter poem
    aligned pairs      the characters at 2i and 2i + 1; there are K = L/2 of them, and d positions that differ spoil at most
                       d pairs, so m = K − ⌊0.4 L⌋
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from textdiff.core.errors import AskedError

Whole = NDArray[np.int64]

SHARED_GRAMS = 0.4  # poems are near repeats if they share so many of the shorter poem's 4-grams
EQUAL_POSITIONS = 0.6  # poems of one form are near repeats if they agree in so many positions
_CHUNK = 1 << 19  # pairs that are compared at a time


def near_repeats(poems: list[list[str]], progress: Callable[[int, int], None] | None = None) -> NDArray[np.bool_]:
    """Which poems, given as lists of lines, are near repeats of an earlier poem that stays, as booleans.

    The result is exact, as if all pairs had been compared; 230,000 poems take minutes.
    """
    tell = progress or (lambda done, total: None)
    alphabet = {c: i for i, c in enumerate(sorted({c for lines in poems for line in lines for c in line}))}
    size = len(alphabet)
    if size**4 >= 2**63:
        raise AskedError(
            f"{size} kinds of characters are more than a 4-gram key of 63 bits can hold, expected at most 55000"
        )
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, lines in enumerate(poems):
        shapes.setdefault((len(lines), len(lines[0])), []).append(i)
    rows: list[Whole] = []
    keys: list[Whole] = []
    pairs: list[Whole] = []
    compared = 0
    for (height, width), members in sorted(shapes.items()):
        index = np.array(members)
        x = np.array([[alphabet[c] for line in poems[i] for c in line] for i in members])  # (poems, L)
        length = height * width
        starts = np.array([h * width + w for h in range(height) for w in range(width - 3)], dtype=int)
        rows.append(np.repeat(index, len(starts)))
        keys.append(sum(x[:, starts + k] * size ** (3 - k) for k in range(4)).ravel())

        half = length // 2
        aligned = (np.arange(half) * size + x[:, 0 : 2 * half : 2]) * size + x[:, 1 : 2 * half : 2]
        spoilt = int(length * (1 - EQUAL_POSITIONS) + 1e-9)
        for a, b in _candidates(np.repeat(np.arange(len(x)), half), aligned.ravel(), spoilt):
            close = (x[a] == x[b]).sum(1) >= length - spoilt
            pairs.append(np.stack([index[a[close]], index[b[close]]]))
        compared += len(members)
        tell(compared, len(poems))

    kinds, key = np.unique(np.concatenate(keys), return_inverse=True)
    entries = np.unique(np.concatenate(rows) * len(kinds) + key)  # each 4-gram of each poem once, sorted by poem
    row, key = entries // len(kinds), entries % len(kinds)
    number = np.bincount(row, minlength=len(poems))
    ends = np.cumsum(number)
    for a, b in _candidates(row, key, number - np.ceil(SHARED_GRAMS * number - 1e-9).astype(int)):
        a, b = np.where(number[a] <= number[b], [a, b], [b, a])  # a has no more 4-grams than b
        within = _ranges(number[a])
        hit = np.repeat(b, number[a]) * len(kinds) + key[np.repeat(ends[a] - number[a], number[a]) + within]
        place = np.minimum(np.searchsorted(entries, hit), len(entries) - 1)
        shared = np.add.reduceat(entries[place] == hit, np.cumsum(number[a]) - number[a], dtype=int)
        close = shared >= SHARED_GRAMS * number[a] - 1e-9
        pairs.append(np.stack([a[close], b[close]]))

    dropped: NDArray[np.bool_] = np.zeros(len(poems), dtype=bool)
    repeats = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), dtype=int)
    first, second = repeats.min(0), repeats.max(0)
    for i in np.argsort(second, kind="stable"):  # in this order, so that it is settled whether the earlier poem stays
        dropped[second[i]] |= not dropped[first[i]]
    return dropped


def _candidates(row: Whole, key: Whole, spare: int | Whole) -> Iterator[tuple[Whole, Whole]]:
    """Pairs of rows that share one of the `spare` + 1 rarest keys of one of them, a piece at a time; pairs may come repeatedly.

    `row` and `key` have one entry for each key of each row.  `spare` is the number of keys that a row may have without the
    other, the same for all rows or one number for each.
    """
    order = np.argsort(key, kind="stable")
    row, key = row[order], key[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]][: len(key)])
    size = np.diff(np.r_[first, len(key)])
    begin: Whole = np.repeat(first, size)  # where the group of the entry begins
    size = np.repeat(size, size)

    rarest = np.lexsort((size, row))
    number = np.bincount(row, minlength=1)
    looked_up = rarest[_ranges(number) < np.repeat(spare + 1 + 0 * number, number)]
    looked_up = looked_up[size[looked_up] > 1]
    cost = np.cumsum(size[looked_up])
    for start in range(0, int(cost[-1]) if len(cost) else 0, _CHUNK):
        some = looked_up[np.searchsorted(cost, start, "right") : np.searchsorted(cost, start + _CHUNK, "right")]
        if len(some):
            a: Whole = np.repeat(row[some], size[some])
            b = row[np.repeat(begin[some], size[some]) + _ranges(size[some])]
            code = np.unique(np.minimum(a, b)[a != b] * len(number) + np.maximum(a, b)[a != b])
            if len(code):
                yield code // len(number), code % len(number)


def _ranges(lengths: Whole) -> Whole:
    """The numbers 0 … n − 1 for each length n, one range after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
