"""Two count models that judge the verse that other models write: one of the order of characters, one of titles.

`KneserNey`.  Let c_k(h, w) be how often w follows the k − 1 characters h; for k below the highest order it is the number of
different characters that stand in front of (h, w).  The interpolated model with modified discounts (Chen and Goodman, 1999) is

    p_k(w | h) = [c_k(h, w) − D_k(c)] / c_k(h) + λ_k(h) p_{k−1}(w | h')                                          (1)
    D_k(c) = c − (c + 1) Y n_{c+1} / n_c  for c = 1, 2 and, for all above, 3;  Y = n_1 / (n_1 + 2 n_2)           (2)

Here h' is h without its first character, λ_k(h) is the mass that the discounts free, n_c is the number of k-grams with the
count c, and p_0 is uniform.  A line break stands in h like any other symbol, but since the form says where line breaks are,
they cost nothing: the model reports p(w | h) / (1 − p(break | h)).                                              (3)

`TitleModel`.  Let p(t | w) be the share of t among the title characters of the train poems that contain w.  Then

    score(title, poem) = Σ_{t in title} log[(1 − λ) mean_{w in poem} p(t | w) / p(t) + λ]                         (4)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng
from textdiff.measure import intervals
from textdiff.measure.grams import Integers, Poem, Values, codes, find, joined

Score = Callable[[str, Poem], float]

LEAST = 8  # characters that occur less often share one unknown symbol
UNKNOWN = 0
_START, _BREAK = "\0", "\n"
_CHUNK = 1 << 14  # titles that are counted at a time


# -- characters in order --------------------------------------------------------------------------------------------------


class _Order(NamedTuple):
    """The counts of the k-grams (h, w) and of their contexts h; a context has the number of its (k − 1)-gram."""

    grams: Integers  # sorted keys: (the number of h) · symbols + w
    discounted: NDArray[np.float32]  # c_k(h, w) − D_k(c), (grams,)
    total: NDArray[np.float32]  # c_k(h), (h,)
    freed: NDArray[np.float32]  # the mass that the discounts free, (h,)


@dataclass(frozen=True)
class KneserNey:
    """An interpolated Kneser–Ney model of the characters of poems; its contexts run over line ends, back to the poem's start."""

    alphabet: NDArray[np.int32]  # a symbol by code point: 0 unknown, then the characters, the break, the start
    orders: tuple[_Order, ...]

    @classmethod
    def fit(cls, poems: Sequence[Poem], order: int = 5, least: int = LEAST) -> KneserNey:
        """A model of `poems`, in which characters that occur fewer than `least` times are unknown.

        7.5 million characters take half a minute.
        """
        if order < 1 or not poems:
            raise AskedError(f"an n-gram model needs poems and an order of 1 or more; got {len(poems)} and {order}")
        alphabet = _numbered(joined(poems), least)
        size = int(alphabet.max()) + 1
        alphabet[ord(_BREAK)], alphabet[ord(_START)] = size, size + 1
        x = _symbols(poems, order, alphabet)
        counted = x != size + 1
        orders: list[_Order] = []
        h = np.zeros(len(x), dtype=np.int64)
        keys, place = np.unique(h * (size + 2) + x, return_inverse=True)
        for k in range(order):
            contexts = int(h.max()) + 1
            if k + 1 < order:
                h = np.append(0, place[:-1])
                longer, longer_place = np.unique(h * (size + 2) + x, return_inverse=True)
                shorter = np.full(len(longer), -1)
                shorter[longer_place[counted]] = place[counted]  # the gram of the last k symbols
                counts = np.bincount(shorter[shorter >= 0], minlength=len(keys))
            else:
                counts = np.bincount(place[counted], minlength=len(keys))
            orders.append(_discounted(keys, counts, keys // (size + 2), contexts))
            if k + 1 < order:
                keys, place = longer, longer_place
        return cls(alphabet, tuple(orders))

    @property
    def size(self) -> int:
        """The number of symbols that the model tells apart, with the unknown one."""
        return int(self.alphabet[ord(_BREAK)])

    def log_p(self, poems: Sequence[Poem]) -> Values:
        """log p (3) of each character, given the poem up to there, in nats, poem after poem, (characters,)."""
        x = _symbols(poems, len(self.orders), self.alphabet).astype(np.int64)
        h = self._contexts(x)
        characters = np.flatnonzero(x < self.size)
        h = [part[characters] for part in h]
        p = self._p(h, x[characters]) / (1 - self._p(h, np.full(len(characters), self.size)))
        return np.log(p)

    def nats(self, poems: Sequence[Poem]) -> Values:
        """−log p of each poem per character, in nats, (N,)."""
        lengths = np.array([sum(map(len, poem)) for poem in poems], dtype=np.int64)
        if not len(lengths) or not lengths.all():
            raise AskedError(
                f"only poems with characters have a likelihood; got {len(lengths)} poems, one of them empty"
            )
        return -np.bincount(np.repeat(np.arange(len(poems)), lengths), weights=self.log_p(poems)) / lengths

    def distribution(self, before: Poem) -> Values:
        """p(w | poem so far) (3) of every symbol, the unknown one first, (symbols,); directly after a break the last line is ''."""
        x = _symbols([(*before[:-1], before[-1] + _START)] if before else [(_START,)], len(self.orders), self.alphabet)
        h = [np.full(self.size, part[-1]) for part in self._contexts(x.astype(np.int64))]
        p = self._p(h, np.arange(self.size))
        return p / (1 - self._p(h, np.full(self.size, self.size)))

    def _contexts(self, x: Integers) -> list[Integers]:
        """For each order the number of the k − 1 symbols in front of each position; −1 where no train poem has them, (M,)."""
        contexts = [np.zeros(len(x), dtype=np.int64)]
        for order in self.orders[:-1]:
            place, known = find(order.grams, np.where(contexts[-1] < 0, -1, contexts[-1] * (self.size + 2) + x))
            contexts.append(np.append(0, np.where(known, place, -1)[:-1]))
        return contexts

    def _p(self, h: list[Integers], w: Integers) -> Values:
        """Equation (1) for symbols w behind the contexts h that `_contexts` gives, (M,)."""
        p = np.full(len(w), 1 / (self.size + 1))  # the break is a symbol, too
        for order, context in zip(self.orders, h, strict=True):
            seen = (context >= 0) & (context < len(order.total))
            context = np.where(seen, context, 0)
            total = np.where(seen, order.total[context], 0.0)
            place, known = find(order.grams, np.where(seen, context * (self.size + 2) + w, -1))
            mass = np.where(known, order.discounted[place], 0.0) + order.freed[context] * p
            p = np.where(total > 0, mass / np.maximum(total, 1.0), p)
        return p


def _discounted(grams: Integers, counts: Integers, contexts: Integers, size: int) -> _Order:
    """An order of the model from its counts; a gram that ends in a start symbol has the count 0."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)  # n[1] … n[4]
    y = n[1] / max(1.0, n[1] + 2 * n[2])
    discount = [0.0] + [min(c, max(0.0, c - (c + 1) * y * n[c + 1] / n[c])) if n[c] else 0.0 for c in (1, 2, 3)]
    freed = np.array(discount)[np.minimum(counts, 3)]
    if counts.any() and not freed.any():  # with a handful of poems: leave some mass for unseen symbols
        freed = np.minimum(counts, 1) * 0.5
    return _Order(
        grams,
        (counts - freed).astype(np.float32),
        np.bincount(contexts, weights=counts, minlength=size).astype(np.float32),
        np.bincount(contexts, weights=freed, minlength=size).astype(np.float32),
    )


def _symbols(poems: Sequence[Poem], order: int, alphabet: NDArray[np.int32]) -> NDArray[np.int32]:
    """All poems as symbols: a break between two lines, and order − 1 starts (at least one) in front of each poem."""
    start = _START * max(1, order - 1)
    return alphabet[codes("".join(start + _BREAK.join(poem) for poem in poems))]


# -- titles ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TitleModel:
    """How well a title suits a poem, by the characters of both: `score` is what the poem adds to the title's log p, in nats."""

    title_alphabet: NDArray[np.int32]  # a symbol by code point, 0 unknown
    poem_alphabet: NDArray[np.int32]
    ratio: NDArray[np.float32]  # p(t | w) / p(t), (poem symbols, title symbols)

    MIXED = 0.3  # λ of (4)
    SMOOTHING = 20.0  # title characters that are added to those beside w, at their overall rates

    @classmethod
    def fit(cls, titles: Sequence[str | None], poems: Sequence[Poem], least: int = LEAST) -> TitleModel:
        """A model of the poems that have a title; each title character counts once, spread over the characters of its poem."""
        if len(titles) != len(poems) or not any(titles):
            raise AskedError(f"{len(poems)} poems need as many titles, one of them not empty; got {len(titles)}")
        words = [title_words(title) for title in titles]
        title_alphabet = _numbered("".join(words), least)
        poem_alphabet = _numbered(joined(poems), least)
        counts = np.zeros((int(poem_alphabet.max()) + 1, int(title_alphabet.max()) + 1))
        pairs = [("".join(poem), title) for poem, title in zip(poems, words, strict=True) if title]
        for chunk in range(0, len(pairs), _CHUNK):
            texts, titled = zip(*pairs[chunk : chunk + _CHUNK], strict=True)
            width = np.array([len(text) for text in texts])
            poem_of = np.repeat(np.arange(len(texts)), [len(t) for t in titled])  # by title character
            t = np.repeat(title_alphabet[codes("".join(titled))].astype(np.int64), width[poem_of])
            start = np.cumsum(width) - width
            within = np.arange(len(t)) - np.repeat(np.cumsum(width[poem_of]) - width[poem_of], width[poem_of])
            w = poem_alphabet[codes("".join(texts))].astype(np.int64)[
                np.repeat(start[poem_of], width[poem_of]) + within
            ]
            weight = np.repeat(1 / width[poem_of], width[poem_of])
            counts += np.bincount(w * counts.shape[1] + t, weights=weight, minlength=counts.size).reshape(counts.shape)
        counts[:, UNKNOWN] = 0
        overall = counts.sum(0) / counts.sum()
        ratio = (counts / np.maximum(overall, 1e-300) + cls.SMOOTHING) / (counts.sum(1, keepdims=True) + cls.SMOOTHING)
        ratio[:, UNKNOWN] = 1.0
        ratio[UNKNOWN] = 1.0
        return cls(title_alphabet, poem_alphabet, ratio.astype(np.float32))

    def score(self, title: str, poem: Poem) -> float:
        """Equation (4), in nats; 0 for a title or a poem without characters."""
        t, w = self.title_alphabet[codes(title_words(title))], self.poem_alphabet[codes("".join(poem))]
        if not len(t) or not len(w):
            return 0.0
        return float(np.log((1 - self.MIXED) * self.ratio[w][:, t].mean(0) + self.MIXED).sum())


def title_words(title: str | None) -> str:
    """The characters of a title without the poem's place in a series: the ones that a network sees as its condition, too."""
    from textdiff.networks.tokenization import title_characters  # imports transformers

    return title_characters(title) if title else ""


class Retrieval(NamedTuple):
    """How often the true title is picked among others: the rate, its 95 % interval (Wilson), and the number of poems."""

    rate: float
    low: float | None
    high: float | None
    poems: int


def retrieval(
    score: Score, poems: Sequence[Poem], titles: Sequence[str | None], *, k: int = 10, seed: int = 0
) -> Retrieval:
    """How often the true title of a poem scores best among k titles: itself and those of k − 1 other poems of the same shape.

    Poems without a title are left out, and so are other titles with the same words as the true one; chance is 1/k.  Titles
    with equal scores share the first place.  `score(title, poem)` may come from any model: the negated bound given the title,
    for example.
    """
    if len(poems) != len(titles) or k < 2:
        raise AskedError(
            f"got {len(titles)} titles for {len(poems)} poems and k = {k}; pass one for each poem, and k ≥ 2"
        )
    words = [title_words(title) for title in titles]
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i in (i for i, title in enumerate(words) if title):
        shapes.setdefault(tuple(map(len, poems[i])), []).append(i)
    won, count = 0.0, 0
    for alike in shapes.values():
        order = Rng([seed + i for i in alike]).uniform(4 * k).numpy()  # (n, 4k): room for titles with the same words
        for i, row in zip(alike, order, strict=True):
            drawn = {words[j]: titles[j] or "" for j in (alike[int(u * len(alike))] for u in row)}
            foils = [title for text, title in drawn.items() if text != words[i]][: k - 1]
            if len(foils) < k - 1:
                continue
            true, *others = (score(title, poems[i]) for title in (titles[i] or "", *foils))
            won += (true >= max(others)) / (1 + sum(other == true for other in others))
            count += 1
    if not count:
        raise AskedError(f"no poem has a title and {k - 1} others of its shape with different ones; pass more poems")
    return Retrieval(*intervals.share(won / count, count), count)


# -- arrays ---------------------------------------------------------------------------------------------------------------


def _numbered(text: str, least: int) -> NDArray[np.int32]:
    """1, 2, … for the characters that occur at least `least` times, by code point; 0 for all others."""
    counts = np.bincount(codes(text), minlength=1)
    known = np.flatnonzero(counts >= least)
    table = np.zeros(0x110000, dtype=np.int32)
    table[known] = np.arange(1, len(known) + 1)
    return table
