"""What generated poems are measured by.  Every figure is to be read beside the same figure of real poems, never beside 1.

A poem is the tuple of its lines, simplified characters without punctuation.  The functions take a list of poems of one form
and give

    one value a poem, an array (N,), whose mean is the metric: prosody, repetition, copying, fluency
    one number for all of them, where only the list has one: `distinct`, `entropy`, `js_unigram`

The latter, and `self_bleu`, depend on the number of poems: compare lists of equal length only.  Nothing depends on the
order of the poems.

Tones and rhymes are the classical ones (`verse`).  A character with several readings counts for each; one without any fits
every tone and no rhyme.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng
from textdiff.measure.counts import KneserNey
from textdiff.measure.grams import SYMBOLS, Poem, Values, alphabet_of, codes, find, grams_of, joined, lines_of
from textdiff.verse import forms as verse
from textdiff.verse import sounds

NEAR = 0.4  # of a poem's 4-grams in one train poem: a near copy
FOILS = 10  # lower lines that the true one is compared with


# -- form -----------------------------------------------------------------------------------------------------------------


def well_formed(poems: Sequence[Poem], form: verse.Form, vocabulary: str | None = None) -> Values:
    """Whether a poem has the form's lines and widths and only Chinese characters (or those of `vocabulary`), (N,)."""
    known = None if vocabulary is None else set(vocabulary)

    def whole(poem: Poem) -> bool:
        shape = len(poem) == form.lines and all(len(line) == form.width for line in poem)
        return shape and all(_han(c) if known is None else c in known for line in poem for c in line)

    return _values(whole(poem) for poem in poems)


def _han(character: str) -> bool:
    return (
        "\u4e00" <= character <= "\u9fff"
        or "\u3400" <= character <= "\u4dbf"
        or "\uf900" <= character <= "\ufaff"
        or "\U00020000" <= character <= "\U000323af"
        or character == "〇"
    )


# -- rhyme ----------------------------------------------------------------------------------------------------------------


def rhyme_level(poems: Sequence[Poem]) -> Values:
    """Whether one level group of 平水韵 holds every even line's ending, (N,)."""
    return _values(sounds.rhyme_level(poem) is True for poem in poems)


def rhyme_loose(poems: Sequence[Poem]) -> Values:
    """Whether one class of neighbouring level groups (`sounds.NEIGHBOURS`) holds every even line's ending, (N,)."""

    def classes(character: str) -> frozenset[int]:
        groups = (sounds.neighbour_classes(group[1:]) for group in sounds.rhyme_groups(character))
        return frozenset[int]().union(*groups)

    return _values(bool(frozenset.intersection(*map(classes, sounds.rhyme_words(poem)))) for poem in poems)


def rhyme_all(poems: Sequence[Poem]) -> Values:
    """Whether one group, level or oblique, holds every even line's ending, (N,)."""
    return _values(
        bool(frozenset.intersection(*(sounds.rhyme_groups(c, level_only=False) for c in sounds.rhyme_words(poem))))
        for poem in poems
    )


def rhyme_share(poems: Sequence[Poem]) -> Values:
    """The share of even lines that end in the level group most of them end in, (N,)."""

    def share(poem: Poem) -> float:
        words = sounds.rhyme_words(poem)
        groups = Counter(group for word in words for group in sounds.rhyme_groups(word))
        return max(groups.values(), default=0) / len(words)

    return _values(map(share, poems))


def rhyme_distinct(poems: Sequence[Poem]) -> Values:
    """Whether no rhyme word stands twice, (N,)."""
    return _values(map(sounds.rhyme_distinct, poems))


# -- tones ----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def _fit(poem: Poem, licensed: bool) -> verse.ToneFit:
    return verse.tone_fit(poem, licensed=licensed)


def tone_position(poems: Sequence[Poem]) -> Values:
    """The share of fixed positions whose tone the nearest of the four sequences wants, (N,)."""
    return _values(_fit(poem, False).positions for poem in poems)


def tone_line(poems: Sequence[Poem], licensed: bool = False) -> Values:
    """The share of lines that fit the nearest sequence; `licensed`: b may be 平平仄平仄 (`tone_special_line`), (N,)."""
    return _values(sum(_fit(poem, licensed).fits) / len(poem) for poem in poems)


def tone_poem(poems: Sequence[Poem], licensed: bool = False) -> Values:
    """Whether all lines fit; `licensed`: b may be 平平仄平仄 (`tone_special_poem`), (N,)."""
    return _values(_fit(poem, licensed).regular for poem in poems)


def regulated(poems: Sequence[Poem]) -> Values:
    """Whether all lines keep their tones (b licensed), the even ones rhyme in a level group, no rhyme word twice, (N,)."""
    return tone_poem(poems, licensed=True) * rhyme_level(poems) * rhyme_distinct(poems)


# -- repetition within a poem ---------------------------------------------------------------------------------------------


def repeat_rate(poems: Sequence[Poem]) -> Values:
    """1 − kinds / characters, (N,)."""
    return _values(1 - len(set("".join(poem))) / len("".join(poem)) for poem in poems)


def all_distinct(poems: Sequence[Poem]) -> Values:
    """Whether no character stands twice, (N,)."""
    return _values(repeat_rate(poems) == 0)


def same_line(poems: Sequence[Poem]) -> Values:
    """Whether a line stands twice, (N,)."""
    return _values(len(set(poem)) < len(poem) for poem in poems)


# -- parallel lines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Association:
    """How much oftener than by chance two characters stand one below the other in couplets 2 and 3 of octaves.

    With n such pairs, n(a, b) of them this one: log((n(a, b) + k) / (n(a) n(b) / n + k)), k = 10: pointwise mutual
    information, drawn towards 0 where little is known.
    """

    alphabet: NDArray[np.uint16]  # by code point, 0 for what was not seen
    pairs: NDArray[np.int64]  # sorted keys
    counts: NDArray[np.int64]  # of `pairs`
    upper: NDArray[np.int64]  # by symbol
    lower: NDArray[np.int64]

    SMOOTHING = 10.0

    @classmethod
    def learn(cls, poems: Sequence[Poem]) -> Association:
        """From the octaves among the poems; the two octave forms share one table."""
        octaves = [poem for poem in poems if len(poem) == 8]
        alphabet = alphabet_of(octaves)
        upper = alphabet[codes("".join(poem[k] for poem in octaves for k in (2, 4)))].astype(np.int64)
        lower = alphabet[codes("".join(poem[k] for poem in octaves for k in (3, 5)))].astype(np.int64)
        pairs, counts = np.unique(upper * SYMBOLS + lower, return_counts=True)
        return cls(
            alphabet, pairs, counts, np.bincount(upper, minlength=SYMBOLS), np.bincount(lower, minlength=SYMBOLS)
        )

    def __call__(self, upper: NDArray[np.uint32], lower: NDArray[np.uint32]) -> Values:
        """The association of code points that stand above and below each other, of the arrays' common shape, nats."""
        a, b = self.alphabet[upper].astype(np.int64), self.alphabet[lower].astype(np.int64)
        place, found = find(self.pairs, a * SYMBOLS + b)
        together = np.where(found, self.counts[place], 0) if len(self.pairs) else np.zeros(a.shape)
        chance = self.upper[a] * self.lower[b] / max(1, int(self.upper.sum()))
        return np.log((together + self.SMOOTHING) / (chance + self.SMOOTHING))


def parallel_accuracy(
    poems: Sequence[Poem], association: Association, foils: Sequence[Poem], *, couplets: Sequence[int] = (1, 2)
) -> Values:
    """How often a lower line has a higher mean association with its upper line than one of another poem, (N,); chance ½.

    10 foils a couplet, from the same couplet of other poems of the form; which ones is drawn by the poem's text.  A tie is
    half a win.
    """
    shapes = {tuple(map(len, poem)) for poem in (*poems, *foils)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 8 or len(set(foils)) < 2:
        raise AskedError(
            f"parallel lines are looked for in poems of one octave form, against two others or more; got "
            f"{len(shapes)} shapes and {len(set(foils))} others; sort the poems by form"
        )
    lines, others = lines_of(poems), lines_of(foils)  # (N, 8, W), (M, 8, W)
    home = {poem: k for k, poem in enumerate(foils)}
    own = np.array([home.get(poem, -1) for poem in poems])[:, None]
    rng = Rng([zlib.crc32("".join(poem).encode()) for poem in poems])
    wins = []
    for couplet in couplets:
        upper, lower = lines[:, 2 * couplet], lines[:, 2 * couplet + 1]  # (N, W)
        drawn = (rng.uniform(FOILS).numpy() * len(foils)).astype(np.int64)  # (N, 10)
        drawn = np.where(drawn == own, (drawn + 1) % len(foils), drawn)
        true = association(upper, lower).mean(-1)[:, None]
        foil = association(*np.broadcast_arrays(upper[:, None], others[drawn, 2 * couplet + 1])).mean(-1)  # (N, 10)
        wins.append((true > foil) + 0.5 * (true == foil))
    means: Values = np.mean(np.concatenate(wins, axis=1), axis=1)
    return means


# -- copying --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Train:
    """The train poems, indexed for the copying metrics: some seconds and 300 MB for 190 thousand poems."""

    poems: frozenset[Poem]
    lines: frozenset[str]
    alphabet: NDArray[np.uint16]
    inside: NDArray[np.int64]  # keys of the 4-grams within lines, sorted
    grams: NDArray[np.int64]  # keys of the 4-grams of each poem, lines joined, sorted
    owners: NDArray[np.int32]  # the poems they are of

    @classmethod
    def index(cls, poems: Sequence[Poem]) -> Train:
        """Of every form at once: a line or 4-gram counts as copied whichever form it comes from."""
        alphabet = alphabet_of(poems)
        inside = np.sort(grams_of(poems, 4, alphabet)[0])
        grams, owners = grams_of(poems, 4, alphabet, across=True)
        order = np.argsort(grams, kind="stable")  # owners stay in order
        grams, owners = grams[order], owners[order]
        first = np.ones(len(grams), dtype=bool)  # once a poem
        first[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
        lines = frozenset(line for poem in poems for line in poem)
        return cls(frozenset(poems), lines, alphabet, inside, grams[first], owners[first].astype(np.int32))


def copied_lines(poems: Sequence[Poem], train: Train) -> Values:
    """The share of lines that stand in train, (N,)."""
    return _values(sum(line in train.lines for line in poem) / len(poem) for poem in poems)


def copied_4grams(poems: Sequence[Poem], train: Train) -> Values:
    """The share of 4-grams within lines that stand in train, (N,); 0 for a poem without 4-grams."""
    grams, owners = grams_of(poems, 4, train.alphabet)
    found = np.bincount(owners, weights=find(train.inside, grams)[1], minlength=len(poems))
    return found / np.maximum(1, np.bincount(owners, minlength=len(poems)))


def nearest_overlap(poems: Sequence[Poem], train: Train) -> Values:
    """The largest share of a poem's different 4-grams, lines joined, that one train poem has, (N,)."""
    grams, owners = grams_of(poems, 4, train.alphabet, across=True)
    cuts = np.searchsorted(owners, np.arange(len(poems) + 1))  # owners come in order

    def nearest(own: NDArray[np.int64]) -> float:
        kinds = np.unique(own)
        start, stop = np.searchsorted(train.grams, kinds, "left"), np.searchsorted(train.grams, kinds, "right")
        who = [train.owners[i:j] for i, j in zip(start, stop, strict=True) if j > i]
        return np.unique(np.concatenate(who), return_counts=True)[1].max() / len(kinds) if who else 0.0

    return _values(nearest(grams[i:j]) for i, j in pairwise(cuts))


def near_copies(poems: Sequence[Poem], train: Train) -> Values:
    """Whether one train poem has 0.4 or more of a poem's 4-grams, (N,)."""
    return _values(nearest_overlap(poems, train) >= NEAR)


def exact(poems: Sequence[Poem], train: Train) -> Values:
    """Whether the whole poem stands in train, (N,)."""
    return _values(poem in train.poems for poem in poems)


# -- diversity ------------------------------------------------------------------------------------------------------------


def distinct(poems: Sequence[Poem], n: int) -> float:
    """Kinds of n-grams within lines, over n-grams."""
    grams, _ = grams_of(_some(poems), n, alphabet_of(poems))
    if not len(grams):
        raise AskedError(f"no line has {n} characters; pass a smaller n")
    return len(np.unique(grams)) / len(grams)


def self_bleu(poems: Sequence[Poem], n: int) -> Values:
    """BLEU of each poem, its lines joined, against all the others as references, (N,); high means alike.

    Orders 1 to n with equal weights; orders from 2 on with one added to matches and total (Lin and Och, 2004).  Poems of
    one form are equally long, so no brevity penalty arises.
    """
    if len(poems) < 2:
        raise AskedError(f"self-BLEU compares a poem with others, and here is {len(poems)}; pass two or more")
    alphabet, total = alphabet_of(poems), np.zeros(len(poems))
    for order in range(1, n + 1):
        grams, owners = grams_of(poems, order, alphabet, across=True)
        kinds = np.unique(grams, return_inverse=True)[1]
        held, counts = np.unique(kinds * len(poems) + owners, return_counts=True)  # a gram in a poem, how often
        kind, owner = np.divmod(held, len(poems))
        matched = np.minimum(counts, _most_elsewhere(kind, counts))
        hits = np.bincount(owner, weights=matched, minlength=len(poems)) + (order > 1)
        with np.errstate(divide="ignore"):  # a poem of characters of its own scores 0
            total += np.log(hits / (np.bincount(owner, weights=counts, minlength=len(poems)) + (order > 1)))
    return np.exp(total / n)


def _most_elsewhere(kind: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each entry the largest count among the other entries of its kind, 0 if there are none."""
    order = np.lexsort((counts, kind))
    last = np.append(kind[order][1:] != kind[order][:-1], True)  # the largest of its kind
    ends = np.flatnonzero(last)
    starts = np.append(0, ends[:-1] + 1)
    top = counts[order][ends]
    second = np.where(ends > starts, counts[order][np.maximum(ends - 1, 0)], 0)
    group = np.cumsum(last) - last
    other = np.empty_like(counts)
    other[order] = np.where(last, second[group], top[group])
    return other


def entropy(poems: Sequence[Poem]) -> float:
    """Entropy of the distribution of the poems' characters, nats."""
    return _entropy(_distribution(_some(poems)))


def js_unigram(poems: Sequence[Poem], reference: Sequence[Poem]) -> float:
    """Jensen–Shannon divergence of the character distributions of two lists of poems, nats; 0 to log 2."""
    one, other = _distribution(_some(poems)), _distribution(_some(reference))
    size = max(len(one), len(other))
    one, other = (np.pad(p, (0, size - len(p))) for p in (one, other))
    return max(0.0, _entropy((one + other) / 2) - (_entropy(one) + _entropy(other)) / 2)


def _distribution(poems: Sequence[Poem]) -> Values:
    """Relative frequencies by code point."""
    counts = np.bincount(codes(joined(poems)))
    shares: Values = counts / counts.sum()
    return shares


def _entropy(p: Values) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


# -- fluency --------------------------------------------------------------------------------------------------------------


def fluency(poems: Sequence[Poem], model: KneserNey) -> Values:
    """−log p under a count model that had no part in writing them, nats per character, (N,).

    Low means fluent, lower than real poems means dull: read it with `entropy` and `distinct`.
    """
    return model.nats(poems)


# -- arrays ---------------------------------------------------------------------------------------------------------------


def _values(values: object) -> Values:
    return np.fromiter(values, dtype=np.float64)  # type: ignore[call-overload, no-any-return]


def _some(poems: Sequence[Poem]) -> Sequence[Poem]:
    if not any("".join(poem) for poem in poems):
        raise AskedError("there is no poem to measure; pass at least one")
    return poems
