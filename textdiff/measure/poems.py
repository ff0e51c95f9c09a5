"""The metrics of generated poems.  Read every figure beside the same figure of real poems, never beside 1.

A poem is the tuple of its lines, in simplified characters without punctuation.  The functions take a list of poems of one
form and return either

    an array (N,) with one value for each poem, whose mean is the metric: prosody, repetition, copying, fluency
    or one number, where only the whole list has one: `distinct`, `entropy`, `js_unigram`

The latter, and `self_bleu`, depend on the number of poems: compare only lists of equal length.  No metric depends on the
order of the poems.

Tones and rhymes are the classical ones (`verse`).  A character with several readings fits wherever one of them does; a
character without a reading fits every tone and no rhyme.
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

NEAR = 0.4  # a poem is a near copy if one train poem has this share of its 4-grams
FOILS = 10  # lower lines of other poems with which the true one is compared


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
    """Whether one level group of 平水韵 holds the rhyme words of all even lines, (N,)."""
    return _values(sounds.rhyme_level(poem) is True for poem in poems)


def rhyme_loose(poems: Sequence[Poem]) -> Values:
    """Whether one class of neighbouring level groups (`sounds.NEIGHBOURS`) holds the rhyme words of all even lines, (N,)."""

    def classes(character: str) -> frozenset[int]:
        groups = (sounds.neighbour_classes(group[1:]) for group in sounds.rhyme_groups(character))
        return frozenset[int]().union(*groups)

    return _values(bool(frozenset.intersection(*map(classes, sounds.rhyme_words(poem)))) for poem in poems)


def rhyme_all(poems: Sequence[Poem]) -> Values:
    """Whether one group, level or oblique, holds the rhyme words of all even lines, (N,)."""
    return _values(
        bool(frozenset.intersection(*(sounds.rhyme_groups(c, level_only=False) for c in sounds.rhyme_words(poem))))
        for poem in poems
    )


def rhyme_share(poems: Sequence[Poem]) -> Values:
    """The largest share of even lines that end in one level group, (N,)."""

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
    """The share of fixed positions that have the tone of the nearest of the four sequences, (N,)."""
    return _values(_fit(poem, False).positions for poem in poems)


def tone_line(poems: Sequence[Poem], licensed: bool = False) -> Values:
    """The share of lines that fit the nearest sequence, (N,); if `licensed`, line b may be 平平仄平仄 (`tone_special_line`)."""
    return _values(sum(_fit(poem, licensed).fits) / len(poem) for poem in poems)


def tone_poem(poems: Sequence[Poem], licensed: bool = False) -> Values:
    """Whether all lines fit, (N,); if `licensed`, line b may be 平平仄平仄 (`tone_special_poem`)."""
    return _values(_fit(poem, licensed).regular for poem in poems)


def regulated(poems: Sequence[Poem]) -> Values:
    """Whether all tones fit (line b licensed), one level group holds all rhyme words, and none stands twice, (N,)."""
    return tone_poem(poems, licensed=True) * rhyme_level(poems) * rhyme_distinct(poems)


# -- repetition within a poem ---------------------------------------------------------------------------------------------


def repeat_rate(poems: Sequence[Poem]) -> Values:
    """1 − different characters / characters, (N,)."""
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
    """How much more often than by chance two characters stand one below the other in couplets 2 and 3 of octaves.

    Let n be the number of such pairs, and n(a, b) the number of those with b below a.  The association is
    log((n(a, b) + k) / (n(a) n(b) / n + k)) with k = 10: pointwise mutual information, pulled towards 0 where counts are small.
    """

    alphabet: NDArray[np.uint16]  # by code point, 0 for unseen characters
    pairs: NDArray[np.int64]  # sorted keys of the pairs that occur
    counts: NDArray[np.int64]  # of `pairs`
    upper: NDArray[np.int64]  # n(a) by symbol
    lower: NDArray[np.int64]  # n(b) by symbol

    SMOOTHING = 10.0

    @classmethod
    def learn(cls, poems: Sequence[Poem]) -> Association:
        """The associations in the octaves among the poems; the two octave forms share one table."""
        octaves = [poem for poem in poems if len(poem) == 8]
        alphabet = alphabet_of(octaves)
        upper = alphabet[codes("".join(poem[k] for poem in octaves for k in (2, 4)))].astype(np.int64)
        lower = alphabet[codes("".join(poem[k] for poem in octaves for k in (3, 5)))].astype(np.int64)
        pairs, counts = np.unique(upper * SYMBOLS + lower, return_counts=True)
        return cls(
            alphabet, pairs, counts, np.bincount(upper, minlength=SYMBOLS), np.bincount(lower, minlength=SYMBOLS)
        )

    def __call__(self, upper: NDArray[np.uint32], lower: NDArray[np.uint32]) -> Values:
        """The association of code points that stand above and below each other, in nats, in the common shape of the arrays."""
        a, b = self.alphabet[upper].astype(np.int64), self.alphabet[lower].astype(np.int64)
        place, known = find(self.pairs, a * SYMBOLS + b)
        together = np.where(known, self.counts[place], 0) if len(self.pairs) else np.zeros(a.shape)
        chance = self.upper[a] * self.lower[b] / max(1, int(self.upper.sum()))
        return np.log((together + self.SMOOTHING) / (chance + self.SMOOTHING))


def parallel_accuracy(
    poems: Sequence[Poem], association: Association, foils: Sequence[Poem], *, couplets: Sequence[int] = (1, 2)
) -> Values:
    """How often a lower line suits its upper line better than the lower line of another poem does, (N,); chance is ½.

    A line suits better if its mean association is higher; a tie is half a win.  Each couplet meets 10 foils, the same couplet
    of other poems of the form, and the poem's text seeds the draw of these poems.
    """
    shapes = {tuple(map(len, poem)) for poem in (*poems, *foils)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 8 or len(set(foils)) < 2:
        raise AskedError(
            f"parallel lines need poems of one octave form, and two or more others to compare with; got "
            f"{len(shapes)} shapes and {len(set(foils))} others; sort the poems by form"
        )
    lines, others = lines_of(poems), lines_of(foils)  # (N, 8, W), (M, 8, W)
    places = {poem: k for k, poem in enumerate(foils)}
    index = np.array([places.get(poem, -1) for poem in poems])[:, None]
    rng = Rng([zlib.crc32("".join(poem).encode()) for poem in poems])
    wins = []
    for couplet in couplets:
        upper, lower = lines[:, 2 * couplet], lines[:, 2 * couplet + 1]  # (N, W)
        drawn = (rng.uniform(FOILS).numpy() * len(foils)).astype(np.int64)  # (N, 10)
        drawn = np.where(drawn == index, (drawn + 1) % len(foils), drawn)
        true = association(upper, lower).mean(-1)[:, None]
        foil = association(*np.broadcast_arrays(upper[:, None], others[drawn, 2 * couplet + 1])).mean(-1)  # (N, 10)
        wins.append((true > foil) + 0.5 * (true == foil))
    means: Values = np.mean(np.concatenate(wins, axis=1), axis=1)
    return means


# -- copying --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Train:
    """An index of the train poems for the copying metrics; 190 thousand poems take some seconds and 300 MB."""

    poems: frozenset[Poem]
    lines: frozenset[str]
    alphabet: NDArray[np.uint16]
    inside: NDArray[np.int64]  # keys of the 4-grams within lines, sorted
    grams: NDArray[np.int64]  # keys of the 4-grams of each poem, over line ends, sorted
    owners: NDArray[np.int32]  # of each entry of `grams`, the number of its poem

    @classmethod
    def index(cls, poems: Sequence[Poem]) -> Train:
        """Index poems of all forms together: a line or 4-gram counts as copied, whatever the form of its source."""
        alphabet = alphabet_of(poems)
        inside = np.sort(grams_of(poems, 4, alphabet)[0])
        grams, owners = grams_of(poems, 4, alphabet, across=True)
        order = np.argsort(grams, kind="stable")  # owners stay in order
        grams, owners = grams[order], owners[order]
        first = np.ones(len(grams), dtype=bool)  # a gram counts once in a poem
        first[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
        lines = frozenset(line for poem in poems for line in poem)
        return cls(frozenset(poems), lines, alphabet, inside, grams[first], owners[first].astype(np.int32))


def copied_lines(poems: Sequence[Poem], train: Train) -> Values:
    """The share of lines that stand in a train poem, (N,)."""
    return _values(sum(line in train.lines for line in poem) / len(poem) for poem in poems)


def copied_4grams(poems: Sequence[Poem], train: Train) -> Values:
    """The share of 4-grams within lines that stand in a line of train, (N,); 0 for a poem without 4-grams."""
    grams, owners = grams_of(poems, 4, train.alphabet)
    copies = np.bincount(owners, weights=find(train.inside, grams)[1], minlength=len(poems))
    return copies / np.maximum(1, np.bincount(owners, minlength=len(poems)))


def nearest_overlap(poems: Sequence[Poem], train: Train) -> Values:
    """The largest share of a poem's different 4-grams, over line ends, that one train poem has, (N,)."""
    grams, owners = grams_of(poems, 4, train.alphabet, across=True)
    cuts = np.searchsorted(owners, np.arange(len(poems) + 1))  # owners come in order

    def nearest(keys: NDArray[np.int64]) -> float:
        kinds = np.unique(keys)
        start, stop = np.searchsorted(train.grams, kinds, "left"), np.searchsorted(train.grams, kinds, "right")
        sources = [train.owners[i:j] for i, j in zip(start, stop, strict=True) if j > i]
        return np.unique(np.concatenate(sources), return_counts=True)[1].max() / len(kinds) if sources else 0.0

    return _values(nearest(grams[i:j]) for i, j in pairwise(cuts))


def near_copies(poems: Sequence[Poem], train: Train) -> Values:
    """Whether one train poem has 0.4 or more of a poem's 4-grams, (N,)."""
    return _values(nearest_overlap(poems, train) >= NEAR)


def exact(poems: Sequence[Poem], train: Train) -> Values:
    """Whether the whole poem stands in train, (N,)."""
    return _values(poem in train.poems for poem in poems)


# -- diversity ------------------------------------------------------------------------------------------------------------


def distinct(poems: Sequence[Poem], n: int) -> float:
    """The number of different n-grams within lines over the number of n-grams."""
    grams, _ = grams_of(_some(poems), n, alphabet_of(poems))
    if not len(grams):
        raise AskedError(f"no line has {n} characters; pass a smaller n")
    return len(np.unique(grams)) / len(grams)


def self_bleu(poems: Sequence[Poem], n: int) -> Values:
    """BLEU of each poem, over line ends, with all the others as references, (N,); a high value means that poems are alike.

    Orders 1 to n have equal weights; from order 2 on, one is added to the matches and to the total (Lin and Och, 2004).  Poems
    of one form are equally long, so there is no brevity penalty.
    """
    if len(poems) < 2:
        raise AskedError(f"self-BLEU compares a poem with others; got {len(poems)} poems, pass two or more")
    alphabet, total = alphabet_of(poems), np.zeros(len(poems))
    for order in range(1, n + 1):
        grams, owners = grams_of(poems, order, alphabet, across=True)
        kinds = np.unique(grams, return_inverse=True)[1]
        entries, counts = np.unique(kinds * len(poems) + owners, return_counts=True)  # an entry: a gram in a poem
        kind, owner = np.divmod(entries, len(poems))
        matched = np.minimum(counts, _most_elsewhere(kind, counts))
        hits = np.bincount(owner, weights=matched, minlength=len(poems)) + (order > 1)
        with np.errstate(divide="ignore"):  # a poem that shares no gram scores 0
            total += np.log(hits / (np.bincount(owner, weights=counts, minlength=len(poems)) + (order > 1)))
    return np.exp(total / n)


def _most_elsewhere(kind: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each entry the largest count among the other entries of the same kind, 0 if there are none."""
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
    """The relative frequencies of characters, by code point."""
    counts = np.bincount(codes(joined(poems)))
    shares: Values = counts / counts.sum()
    return shares


def _entropy(p: Values) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


# -- fluency --------------------------------------------------------------------------------------------------------------


def fluency(poems: Sequence[Poem], model: KneserNey) -> Values:
    """−log p of each poem under a count model that did not write it, in nats per character, (N,).

    A low value means a fluent poem, a value below that of real poems a dull one: read it together with `entropy` and `distinct`.
    """
    return model.nats(poems)


# -- arrays ---------------------------------------------------------------------------------------------------------------


def _values(values: object) -> Values:
    return np.fromiter(values, dtype=np.float64)  # type: ignore[call-overload, no-any-return]


def _some(poems: Sequence[Poem]) -> Sequence[Poem]:
    if not any("".join(poem) for poem in poems):
        raise AskedError("there is no poem to measure; pass at least one")
    return poems
