"""Constraints that tie positions together: tone patterns, one rhyme group, no rhyme word twice, no character twice.

A `Law` is a set C of texts of lines × width tokens.  Every token has a *letter* (P level, Z oblique, E either, W for one
without a reading, which fits anything where it is given and is never written) and a set of rhyme groups.  A text is in C iff

    some tone sequence s is kept: in each line its letters fit one of the line's patterns under s,                      (1)
    the rhyme words share a group, and none stands twice,                                                              (2)
    the first line's last token is a rhyme word too if s says so, else oblique.                                        (3)

A prediction is a product of independent positions, q(x) = Π q_i(x_i).  `Restricted` draws from q restricted to C,

    q_C(x) = q(x)·1[x ∈ C]/Z,        Z = Σ_{x ∈ C} q(x)                                                               (4)

exactly, C as a set: a text that fits two patterns or two groups counts once.  Lines run through a deterministic automaton
whose state is the set of patterns still alive (forward–backward); lines are joined over the set of sequences still alive.
Rhyme words: with F(G) the mass of tuples whose words all lie in each group of the set G, inclusion and exclusion give

    1[the words share a group] = Σ_{∅ ≠ G} (−1)^{|G|+1} 1[every group of G holds every word]                          (5)
    1[all different] = Σ_π Π_{b ∈ π} (−1)^{|b|−1} (|b| − 1)! · 1[equal within each block b]     over set partitions π (6)

and the words are drawn one after another, each by what (5) and (6) leave for the rest.  Whatever a row has revealed can
therefore always be completed: a chain never meets a dead end, and nothing is repaired.

Not exact: `no_repeat` bars what stands and what is drawn before, one after another (the joint law is a permanent); and a
chain of exact steps has not the law p(x0 | C), because its marginals do not know C.  With Z(x) the mass before a step and
Z(x′) the mass under the same prediction once the step's tokens stand, both for q_i without the tokens that are never written,
and k_i the mass that q_i gives to the others,

    log w = Σ_steps log Z(x) − log Z(x′) + Σ_{asked positions i} log k_i                                              (7)

is the log-weight of a mask chain: resampling by it gives p(x0 | C).

A token the predictor excludes keeps a relative mass under 1e-12, the likelier ones more of it, and so is drawn only where C
allows nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from textdiff.core.contracts import Positions, Predictor
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng

P, Z, E, W = range(4)
LETTERS = 4
LEVEL, OBLIQUE = -2, -1  # P or E, Z or E
LEAST = 1e-12  # relative mass under which a token is all but excluded
TAIL = 4  # how fast it falls from there
MEETS = {"·": (P, Z, E, W), "p": (P, E, W), "z": (Z, E, W)}


@dataclass(frozen=True, eq=False)
class Law:
    """The set C over a vocabulary of V tokens; build it with `law`."""

    lines: int
    width: int
    letter: Tensor  # (V,) P, Z, E or W
    writable: Tensor  # (V,) bool
    unread: int  # the id that an open position shows
    states: Tensor  # (S,) reachable sets of patterns, as bits
    following: Tensor  # (width, S, 4) index of the state after a letter
    kept: Tensor  # (lines, S) sequences that a line in a final state keeps, as bits
    patterns: Tensor  # (sequences, lines) patterns of a line, as bits
    under: Tensor  # (2^sequences, lines) patterns of a line under any of these sequences, as bits
    marks: Tensor  # (patterns, width) what each asks: W, LEVEL or OBLIQUE
    fitting: Tensor  # (6, V) bool: tokens for LEVEL, OBLIQUE, P, Z, E, W
    tonal: Tensor  # (L,) bool: where some pattern asks something
    rhyming_first: int  # sequences whose first line rhymes, as bits
    words: tuple[int, ...]  # positions of the rhyme words; () without rhyme
    first: int | None  # position of the last token of the first line, where (3) is asked
    rhymes: Rhymes | None
    distinct: bool
    no_repeat: bool

    @property
    def sequences(self) -> int:
        return len(self.patterns)

    def known(self, x: Tensor) -> Tensor:
        """Letters of x (B, L) where something stands, W elsewhere, (B, L)."""
        return torch.where(x == self.unread, W, self.letter[x])

    def alive(self, letters: Tensor) -> tuple[Tensor, Tensor]:
        """(sequences (B,), patterns (B, lines)) that letters (B, L) leave, as bits; W leaves all."""
        rows = letters.view(len(letters), self.lines, self.width)
        state = torch.zeros_like(rows[:, :, 0])
        for j in range(self.width):
            state = self.following[j][state, rows[:, :, j]]
        kept = self.kept[torch.arange(self.lines, device=state.device), state]
        sequences = kept[:, 0]
        for k in range(1, self.lines):
            sequences = sequences & kept[:, k]
        if self.first is not None:
            end = letters[:, self.first]
            rhyming = torch.full_like(sequences, self.rhyming_first)
            sequences = torch.where(end == P, sequences & rhyming, sequences)
            sequences = torch.where(end == Z, sequences & ~rhyming, sequences)
        return sequences, self.states[state]

    def settled(self, left: tuple[Tensor, Tensor], asked: Tensor) -> tuple[Tensor, Tensor]:
        """(rows (B,), lines (B, lines)) bool where positions asked for, (B, L) bool, do not depend on each other any more.

        `left` is what `alive` gives.

        A row has one sequence left and nothing to ask the rhyme; a line has one pattern left under it.
        """
        sequences, patterns = left
        within = patterns & self.under[sequences]
        one = (sequences & (sequences - 1)) == 0
        if self.words:
            one = one & ~asked[:, list(self.ends)].any(-1)
        return one, (within & (within - 1)) == 0

    def required(self, left: tuple[Tensor, Tensor]) -> Tensor:
        """What the first sequence and patterns left (`alive`) ask of each position, (B, L): W, LEVEL or OBLIQUE."""
        sequences, patterns = left
        chosen = patterns & self.under[sequences & -sequences]
        bit = (chosen & -chosen).double().log2().long()  # the lowest
        return self.marks[bit].flatten(1)

    def coupled(self, x: Tensor, asked: Tensor) -> Tensor:
        """Open positions (B, L) bool whose predictions a joint draw at `asked` (B, L) bool needs, `asked` among them."""
        letters, open_ = self.known(x), x == self.unread
        left = self.alive(letters)
        one, untied = self.settled(left, asked)
        touched = asked.view(len(x), self.lines, self.width).any(-1)
        if bool((one & (untied | ~touched).all(-1)).all()):
            return asked
        sequences = left[0]
        several = (sequences & (sequences - 1)) != 0
        need = (several & asked.any(-1))[:, None] | (~untied & touched).repeat_interleave(self.width, 1)
        need = need & self.tonal
        if self.words:
            ends = torch.zeros_like(x, dtype=torch.bool)
            ends[:, list(self.ends)] = True
            need = torch.where(ends, self._rhyme_needed(letters, sequences, asked)[:, None], need)
        return asked | (need & open_)

    @property
    def ends(self) -> tuple[int, ...]:
        """Positions whose letters are the rhyme's business."""
        return self.words if self.first is None else (*self.words, self.first)

    def _rhyme_needed(self, letters: Tensor, sequences: Tensor, asked: Tensor) -> Tensor:
        """Rows (B,) bool whose draw depends on the rhyme words."""
        if not self.words:
            return torch.zeros_like(asked[:, 0])
        needed = asked[:, list(self.ends)].any(-1)
        if self.first is not None:
            end = letters[:, self.first]
            both = ((sequences & self.rhyming_first) != 0) & ((sequences & ~self.rhyming_first) != 0)
            needed = needed | (both & ((end == W) | (end == E)) & asked.any(-1))
        return needed


@dataclass(frozen=True, eq=False)
class Rhymes:
    """Which tokens stand in which sets of groups."""

    tokens: Tensor  # (C,) tokens with a group
    place: Tensor  # (V,) index among them, C where none
    pair_token: Tensor  # (N,) index into tokens …
    pair_set: Tensor  # (N,) … and a set of groups that it stands in
    sign: Tensor  # (K,) (−1)^{|G|+1}
    size: Tensor  # (K,) |G|
    member: Tensor  # (C, K) bool
    level_only: Tensor  # (C,) bool: no oblique reading

    def masses(self, w: Tensor) -> Tensor:
        """Σ over the tokens of each set of w (n, C), (n, K)."""
        return w.new_zeros(len(w), len(self.sign)).index_add(1, self.pair_set, w[:, self.pair_token])


def law(
    lines: int,
    width: int,
    *,
    letters: Sequence[int],
    unread: int,
    writable: Tensor | None = None,
    sequences: Sequence[Sequence[Sequence[str]]] = (),
    groups: Sequence[frozenset[str]] | None = None,
    words: Sequence[int] = (),
    first: int | None = None,
    rhyming_first: Sequence[bool] = (),
    distinct: bool = True,
    no_repeat: bool = False,
    device: torch.device | str = "cpu",
) -> Law:
    """The set of texts.

    letters (V) of P, Z, E, W; sequences[s][line] the patterns, strings of `p z ·`, any of which the line may keep under s;
    groups (V) the rhyme groups of each token, where `words`, the positions of the rhyme words, must share one; `first` and
    `rhyming_first[s]` as (3) asks.  A group with fewer tokens than there are words (than the text
    has positions, under `no_repeat`) is no group.
    """
    sequences = sequences or [[["·" * width]] * lines]
    listed = sorted({pattern for sequence in sequences for line in sequence for pattern in line})
    bits = {pattern: 1 << k for k, pattern in enumerate(listed)}
    ok = [[sum(bits[p] for p in listed if letter in MEETS[p[j]]) for letter in range(LETTERS)] for j in range(width)]
    states = [2 ** len(listed) - 1]
    for mask in states:  # grows while it is walked
        states += sorted({mask & ok[j][letter] for j in range(width) for letter in range(LETTERS)} - set(states))
    index = {mask: k for k, mask in enumerate(states)}
    following = [[[index[mask & ok[j][c]] for c in range(LETTERS)] for mask in states] for j in range(width)]
    patterns = [[sum(bits[p] for p in set(line)) for line in sequence] for sequence in sequences]
    kept = [
        [sum(1 << s for s in range(len(sequences)) if mask & patterns[s][k]) for mask in states] for k in range(lines)
    ]
    asks = {"·": W, "p": LEVEL, "z": OBLIQUE}
    letter = torch.tensor(letters, device=device)
    allowed = letter != W
    if writable is not None:
        allowed = allowed & writable.to(device)
    enough = lines * width if no_repeat else len(words) + (first is not None)
    tied = first if first is not None and words and any(rhyming_first) else None
    return Law(
        lines=lines,
        width=width,
        letter=letter,
        writable=allowed,
        unread=unread,
        states=torch.tensor(states, device=device),
        following=torch.tensor(following, device=device),
        kept=torch.tensor(kept, device=device),
        patterns=torch.tensor(patterns, device=device),
        under=torch.tensor(
            [
                [_union(row[k] for s, row in enumerate(patterns) if chosen >> s & 1) for k in range(lines)]
                for chosen in range(2 ** len(patterns))
            ],
            device=device,
        ),
        marks=torch.tensor([[asks[mark] for mark in pattern] for pattern in listed], device=device),
        fitting=torch.stack(
            [
                (letter == P) | (letter == E),
                (letter == Z) | (letter == E),
                *(letter == one for one in (P, Z, E)),
                torch.ones_like(allowed),
            ]
        ),
        tonal=torch.tensor([any(p[j] != "·" for p in listed) for j in range(width)], device=device).repeat(lines),
        rhyming_first=sum(1 << s for s, rhymes in enumerate(rhyming_first) if rhymes),
        words=tuple(words),
        first=tied,
        rhymes=_rhymes(groups, letter, allowed, enough) if groups is not None and words else None,
        distinct=distinct,
        no_repeat=no_repeat,
    )


def _union(masks: Iterable[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result


def _rhymes(groups: Sequence[frozenset[str]], letter: Tensor, writable: Tensor, enough: int) -> Rhymes:
    can = writable.tolist()
    counts: dict[str, int] = {}
    for k, held in enumerate(groups):
        for group in held:
            counts[group] = counts.get(group, 0) + can[k]
    large = {group for group, n in counts.items() if n >= enough}
    tokens = [k for k, held in enumerate(groups) if held & large]
    if not tokens:
        raise AskedError(
            f"no rhyme group asked for has the {enough} tokens that it takes; ask for another, or for less"
        )
    numbers: dict[tuple[str, ...], int] = {}
    pairs = []
    for place, k in enumerate(tokens):
        own = sorted(groups[k] & large)
        for n in range(1, len(own) + 1):
            for chosen in itertools.combinations(own, n):
                pairs.append((place, numbers.setdefault(chosen, len(numbers))))
    device = letter.device
    index = torch.tensor(tokens, dtype=torch.long, device=device)
    pair_token, pair_set = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).T
    member = torch.zeros(len(tokens), len(numbers), dtype=torch.bool, device=device)
    member[pair_token, pair_set] = True
    place_of = torch.full((len(groups),), len(tokens), device=device)
    place_of[index] = torch.arange(len(tokens), device=device)
    size = torch.tensor([len(chosen) for chosen in numbers], device=device)
    return Rhymes(
        index, place_of, pair_token, pair_set, 1.0 - 2.0 * (1 - size % 2).double(), size, member, letter[index] == P
    )


# -- the prediction -------------------------------------------------------------------------------------------------------


def constrained(predictor: Predictor, law: Law, weigh: bool = False) -> Predictor:
    """`predictor` of a mask process, its predictions restricted to `law`.  It is asked at what the draw depends on, too.

    The steps' log-weights are worked out if `weigh`; else they are 0.
    """

    def predict(
        x_t: Tensor, t: Tensor, *, at: Positions | None = None, condition: Any = None, previous: Tensor | None = None
    ) -> Restricted:
        asked = torch.ones_like(x_t, dtype=torch.bool)
        if at is not None:
            asked = torch.zeros_like(asked).index_put(at, torch.tensor(True, device=x_t.device))
        read = positions_of(law.coupled(x_t, asked & (x_t == law.unread)) | asked)
        base = predictor(x_t, t, at=read, condition=condition, previous=previous)
        return Restricted(base, law, asked, base.known, weigh)

    return predict


@dataclass(frozen=True)
class Restricted:
    """A product prediction restricted to a law, to be drawn at `asked`; `shown` (B, L) elsewhere."""

    base: Categorical
    law: Law
    asked: Tensor  # (B, L) bool
    shown: Tensor
    weigh: bool = True

    @property
    def known(self) -> Tensor:
        return self.base.known

    def pin(self, x: Tensor, where: Tensor) -> Restricted:
        return replace(
            self, base=self.base.pin(x, where), asked=self.asked & ~where, shown=torch.where(where, x, self.shown)
        )

    def uncounted(self) -> Restricted:
        return self

    def select(self, where: Tensor, known: Tensor | None = None) -> Restricted:
        """The law of the tokens at `where` (B, L) bool alone."""
        return replace(self, asked=self.asked & where, shown=self.shown if known is None else known)

    def map(self, shape: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Restricted:
        """The restriction of a product with other logits."""
        return replace(self, base=self.base.map(shape))

    def log_prob(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Of the unrestricted product."""
        return self.base.log_prob(*tokens)

    def statistic(self, f: Callable[[Tensor, Tensor, Tensor], Tensor], fill: float = 0.0) -> Tensor:
        """Of the unrestricted product, position by position."""
        return self.base.statistic(f, fill)

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 ~ q_C, (B, L)."""
        law, open_ = self.law, self._open()
        chance, words, tokens = rng.branch(), rng.branch(), rng.branch()
        x, asked = self.shown, self.asked & open_
        letters = torch.where(open_, W, law.known(self.base.known))
        left = law.alive(letters)
        one, untied = law.settled(left, asked)
        touched = asked.view(len(x), law.lines, law.width).any(-1)
        joint = asked.any(-1) & ~(one & (untied | ~touched).all(-1))
        letter = law.required(left)
        there = joint.nonzero()[:, 0]
        if len(there) or rng.lockstep:
            drawn, ends, wanted = self._tables.rows(there).draw(chance.rows(there), words.rows(there))
            letter[there] = drawn
            if law.rhymes is not None:
                at = (there[:, None], torch.tensor(law.ends, device=x.device))
                x = x.index_put(at, torch.where(wanted, ends, x[at]))
                asked = asked.index_put(at, asked[at] & ~wanted)
        return self._draw_tokens(x, letter, asked, tokens)

    def log_weight(self, x: Tensor) -> Tensor:
        """(7) of a step that put x's tokens at the asked positions, (B,) float64, nats."""
        if not self.weigh:
            return self.base.log_weight(x)
        tables = self._tables
        return self._log_kept() + tables.log_mass() - tables.with_tokens(x).log_mass()

    def log_mass(self) -> Tensor:
        """log Z of (4), up to factors of positions that nothing asked depends on, (B,) float64."""
        return self._tables.log_mass()

    @cached_property
    def _barred(self) -> Tensor:
        """Tokens (N, V) bool that are never drawn at the base's positions: not writable, or not to stand a second time."""
        law, (rows, _) = self.law, self.base.at
        barred = ~law.writable[None]
        if law.no_repeat:
            standing = torch.where(self._open(), law.unread, self.base.known)
            barred = barred | _present(standing, len(law.letter))[rows]
        return barred

    def _log_kept(self) -> Tensor:
        """Σ over the asked positions of the log of the prediction's mass on tokens that are not barred, (B,) float64."""
        (rows, _), logits = self.base.at, self.base.logits().double()
        kept = logits.masked_fill(self._barred, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)
        kept = torch.where(self.asked[self.base.at], kept.clamp(min=math.log(LEAST)), 0.0)
        return kept.new_zeros(len(self.asked)).index_add(0, rows, kept)

    @cached_property
    def _p(self) -> Tensor:
        """Probabilities (N, V) at the base's positions."""
        logits, barred = self.base.logits(), self._barred
        kept = logits.masked_fill(barred, -torch.inf)
        top = kept.amax(-1, keepdim=True)
        top = torch.where(top > -torch.inf, top, 0.0)
        floor = math.log(LEAST)
        depth = (floor - (kept - top)).clamp(min=0)  # under the floor order is kept, in a tail that is never 0
        p = torch.exp(torch.where(depth > 0, floor - TAIL * torch.log1p(depth).clamp(max=11.0), kept - top))
        p = p.masked_fill(barred, 0.0)
        return p / p.sum(-1, keepdim=True)

    @cached_property
    def _tables(self) -> _Tables:
        law, at = self.law, self.base.at
        p, open_ = self._p, self._open()
        letters = one_hot(law.known(self.base.known), LETTERS).double()
        letters = letters.index_put(at, (p @ one_hot(law.letter, LETTERS).to(p.dtype)).double())
        words = None if law.rhymes is None else _read_words(law, law.rhymes, self.base.known, at, p)
        return _Tables(law, open_, self.asked & open_, letters, words)

    def _draw_tokens(self, x: Tensor, letter: Tensor, where: Tensor, rng: Rng) -> Tensor:
        """x with tokens of these letters (B, L) at `where` (B, L) bool."""
        law, (rows, positions) = self.law, self.base.at
        keep = where[rows, positions].nonzero()[:, 0]
        rows, positions = rows[keep], positions[keep]
        fits = law.fitting[letter[rows, positions] - LEVEL]
        logits = torch.where(fits, self._p[keep], 0.0).log()
        if not law.no_repeat:
            return x.index_put((rows, positions), rng.categorical(logits, at=(rows, positions)))
        for column in positions.unique().tolist():
            here = (positions == column).nonzero()[:, 0]
            row, at = rows[here], (rows[here], positions[here])
            waiting = where[row] & (torch.arange(x.shape[1], device=x.device) >= column)
            barred = _present(torch.where(waiting, law.unread, x[row]), len(law.letter))
            rng.counter = column  # whichever columns the other rows ask for
            token = rng.categorical(logits[here].masked_fill(barred, -torch.inf), at=at)
            x = x.index_put(at, token)
        return x

    def _open(self) -> Tensor:
        """Where the base has a law, (B, L) bool."""
        empty = torch.zeros_like(self.asked)
        return empty.index_put(self.base.at, torch.tensor(True, device=empty.device))


def _read_words(law: Law, rhymes: Rhymes, known: Tensor, at: Positions, p: Tensor) -> tuple[Tensor, Tensor]:
    """(weights (B, R, C) of the rhyme tokens at `law.ends`, live (B, R): whether anything is known there)."""
    ends = torch.tensor(law.ends, device=known.device)
    size = len(rhymes.tokens)
    weights = one_hot(rhymes.place[known[:, ends]], size + 1)[..., :size].double()
    live = law.known(known[:, ends]) != W
    slot = torch.full((known.shape[1],), -1, device=known.device)
    slot[ends] = torch.arange(len(ends), device=known.device)
    chosen = (slot[at[1]] >= 0).nonzero()[:, 0]
    where = (at[0][chosen], slot[at[1][chosen]])
    weights = weights.index_put(where, p[chosen][:, rhymes.tokens].double())
    return weights, live.index_put(where, torch.tensor(True, device=known.device))


@dataclass(frozen=True)
class _Tables:
    """What a prediction says about letters and rhyme words."""

    law: Law
    open: Tensor  # (B, L) bool: there is a prediction
    asked: Tensor  # (B, L) bool, some of them
    letters: Tensor  # (B, L, 4) masses, float64
    words: tuple[Tensor, Tensor] | None  # weights (B, R, C), live (B, R) at the law's ends

    def rows(self, index: Tensor) -> _Tables:
        """Those of the rows index (n,)."""
        words = None if self.words is None else (self.words[0][index], self.words[1][index])
        return _Tables(self.law, self.open[index], self.asked[index], self.letters[index], words)

    def with_tokens(self, x: Tensor) -> _Tables:
        """With x's tokens at the asked positions."""
        law, words = self.law, self.words
        sure = one_hot(law.letter[x], LETTERS).double()
        letters = torch.where(self.asked[..., None], sure, self.letters)
        if words is not None and law.rhymes is not None:
            ends, size = list(law.ends), len(law.rhymes.tokens)
            certain = one_hot(law.rhymes.place[x[:, ends]], size + 1)[..., :size].double()
            words = (torch.where(self.asked[:, ends][..., None], certain, words[0]), words[1])
        return replace(self, open=self.open & ~self.asked, letters=letters, words=words)

    def log_mass(self, rows: Tensor | None = None) -> Tensor:
        """log Z (B,); the rhyme's own part for `rows` (B,) bool alone, by default for all."""
        if rows is None:
            rows = torch.ones_like(self.asked[:, 0])
        joint, scale, _ = self._joint(rows)
        return joint.flatten(1).sum(-1).log() + scale

    # Tones: α over the states of each line, then γ over sequences, line by line.

    def _line_letters(self) -> Tensor:
        """(B, lines, width, 4), anything where the rhyme decides."""
        free = one_hot(torch.tensor(W, device=self.letters.device), LETTERS).double()
        ends = torch.zeros(self.letters.shape[1], dtype=torch.bool, device=self.letters.device)
        ends[list(self.law.ends)] = True
        letters = torch.where(ends[:, None], free, self.letters)
        return letters.view(len(letters), self.law.lines, self.law.width, LETTERS)

    def _forward(self, letters: Tensor) -> list[Tensor]:
        """α_j (B, lines, S) for j = 0 … width."""
        law = self.law
        alpha = letters.new_zeros(*letters.shape[:2], len(law.states))
        alpha[..., 0] = 1.0
        result = [alpha]
        for j in range(law.width):
            moved = (alpha[..., None] * letters[:, :, j, None, :]).flatten(-2)
            alpha = torch.zeros_like(alpha).index_add(-1, law.following[j].flatten(), moved)
            result.append(alpha)
        return result

    def _sequences(self, last: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """(λ of each line (B, 2^n), γ before each line and after the last (B, 2^n), log of what γ was divided by (B,))."""
        law, sets = self.law, torch.arange(2**self.law.sequences, device=last.device)
        joined = (sets[:, None] & sets).flatten()
        gamma = last.new_zeros(len(last), len(sets))
        gamma[:, -1] = 1.0
        scale = last.new_zeros(len(last))
        lines, gammas = [], [gamma]
        for k in range(law.lines):
            line = torch.zeros_like(gamma).index_add(1, law.kept[k], last[:, k])
            gamma = torch.zeros_like(gamma).index_add(1, joined, (gamma[:, :, None] * line[:, None]).flatten(1))
            gamma = gamma * (sets > 0)  # no sequence is left
            total = gamma.sum(-1, keepdim=True)
            gamma = gamma / torch.where(total > 0, total, 1.0)
            scale = scale + total[:, 0].log()
            lines.append(line)
            gammas.append(gamma)
        return lines, gammas, scale

    def _joint(self, rows: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Mass of (sequences left, how the first line ends: no rhyme word, one, or one without an oblique reading).

        (B, 2^n, 3) up to exp(scale (B,)); without the rhyme's own part where it is the same for all of them, but for
        `rows` (B,) bool.
        """
        law = self.law
        alphas = self._forward(self._line_letters())
        lines, gammas, scale = self._sequences(alphas[-1])
        mass, parts = gammas[-1], (alphas, lines, gammas)
        if law.first is None:
            joint = (mass * self._rhyme_mass(0, rows)[:, None])[..., None]
            return torch.cat([joint, 0 * joint, 0 * joint], -1), scale, parts
        sets = torch.arange(2**law.sequences, device=scale.device)
        rhyming, other = (sets & law.rhyming_first) != 0, (sets & ~law.rhyming_first) != 0
        either = (mass * rhyming).any(-1) & (mass * other).any(-1)
        rows = rows | (either & self.open[:, list(law.ends)].any(-1))
        end = self.letters[:, law.first, :, None]  # (B, 4, 1)
        ways = [
            ((end[:, Z] + end[:, E]) * other + end[:, W]) * self._rhyme_mass(0, rows)[:, None],
            (rhyming & ~other) * self._rhyme_mass(1, rows)[:, None],
            (rhyming & other) * self._rhyme_mass(2, rows)[:, None],
        ]
        return mass[..., None] * torch.stack(ways, -1), scale, parts

    # Rhyme words.

    def _rhyme_mass(self, how: int, rows: Tensor) -> Tensor:
        """Mass (B,) of rhyme words that share a group and differ; at least whether there is any, outside `rows` (B,) bool."""
        mass = torch.ones_like(self.letters[:, 0, 0])
        if self.words is None:
            return mass
        if how and self.law.first is not None:  # an end that is open and not read, or has no reading, is no rhyme word
            end = self.letters[:, self.law.first]
            mass = mass * ((end[:, P] + (end[:, E] if how == 1 else 0.0)) > 0)
        stands = torch.zeros_like(rows)
        if how and self.law.first is not None:
            stands = self.words[1][:, -1] & ~self.open[:, self.law.first]
        for there, exact in ((rows.nonzero()[:, 0], True), ((stands & ~rows).nonzero()[:, 0], False)):
            if len(there):
                words = self._rhyme_words(torch.full_like(there, how), there)
                found = words.mass() if exact else words.possible.double()
                mass = mass.index_put((there,), found * mass[there])
        return mass

    def _rhyme_words(self, how: Tensor, rows: Tensor) -> _Words:
        """The rhyme words of `rows` (n,), the first line's end among them as how (n,), the third index of `_joint`, says."""
        law = self.law
        assert self.words is not None and law.rhymes is not None
        weights, live = self.words[0][rows], self.words[1][rows]
        if law.first is not None:
            last = weights[:, -1:] * torch.where((how == 2)[:, None, None], law.rhymes.level_only, True)
            weights = torch.cat([weights[:, :-1], last], 1)
            live = torch.cat([live[:, :-1], live[:, -1:] & (how > 0)[:, None]], 1)
        return _Words.of(law.rhymes, law.distinct, weights, live, self.open[rows][:, list(law.ends)])

    # The draw.

    def draw(self, rng: Rng, other: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Letters (B, L), rhyme words (B, R) and which of them to take (B, R) bool: sequences and how the first line ends
        first, then letters, then the words."""
        law = self.law
        joint, _, (alphas, lines, gammas) = self._joint(torch.zeros_like(self.asked[:, 0]))
        place = rng.categorical(joint.flatten(1).log())
        first = place % 3
        letter = self._draw_letters(place // 3, alphas, lines, gammas, rng)
        if law.rhymes is None:
            return letter, letter, self.asked
        wanted = self.asked[:, list(law.ends)]
        if law.first is not None:
            wanted = torch.cat([wanted[:, :-1], wanted[:, -1:] & (first > 0)[:, None]], 1)
            letter[:, law.first] = OBLIQUE
        there = wanted.any(-1).nonzero()[:, 0]
        drawn = self._rhyme_words(first[there], there).draw(len(letter), there, other)
        return letter, drawn, wanted

    def _draw_letters(
        self, sequences: Tensor, alphas: list[Tensor], lines: list[Tensor], gammas: list[Tensor], rng: Rng
    ) -> Tensor:
        """Letters (B, L) of texts that leave just these sequences (B,), backwards through γ and α."""
        law, size = self.law, 2**self.law.sequences
        pairs = torch.arange(size * size, device=sequences.device)
        kept = []
        for k in reversed(range(law.lines)):
            fits = ((pairs // size) & (pairs % size))[None] == sequences[:, None]
            weight = (gammas[k][:, :, None] * lines[k][:, None]).flatten(1) * fits
            chosen = rng.categorical(weight.log())
            sequences = chosen // size
            kept.append(chosen % size)
        fits = law.kept[None] == torch.stack(kept[::-1], 1)[..., None]  # (B, lines, S)
        at = positions_of(torch.ones_like(fits[..., 0]))
        state = rng.categorical((alphas[-1] * fits).flatten(0, 1).log(), at=at)  # (B·lines,)
        masses, letters = self._line_letters(), []
        for j in reversed(range(law.width)):
            fits = law.following[j].flatten() == state[:, None]
            weight = (alphas[j][..., None] * masses[:, :, j, None, :]).flatten(-2).flatten(0, 1) * fits
            chosen = rng.categorical(weight.log(), at=at)
            state = chosen // LETTERS
            letters.append(chosen % LETTERS)
        return torch.stack(letters[::-1], -1).view_as(self.asked)


def _present(x: Tensor, size: int) -> Tensor:
    """Which tokens stand in x (n, L), (n, V) bool."""
    none = torch.zeros(len(x), size, dtype=torch.bool, device=x.device)
    return none.scatter(1, x, torch.ones_like(x, dtype=torch.bool))


@dataclass(frozen=True)
class _Words:
    """The rhyme words of n rows, K of them open, the open ones of a row first."""

    rhymes: Rhymes
    distinct: bool
    weights: Tensor  # (n, K, C), 0 where not open
    open: Tensor  # (n, K) bool
    slot: Tensor  # (n, K) which of the ends it is
    held: Tensor  # (n, sets) bool: sets of groups that every word that stands has
    possible: Tensor  # (n,) bool: the words that stand rhyme and differ
    ends: int  # R, open or not

    @classmethod
    def of(cls, rhymes: Rhymes, distinct: bool, weights: Tensor, live: Tensor, read: Tensor) -> _Words:
        """From weights (n, R, C), live (n, R) and read (n, R) bool; a word stands if it is live and not read."""
        standing, open_ = live & ~read, live & read
        held = torch.ones(len(live), len(rhymes.sign), dtype=torch.bool, device=live.device)
        used = torch.zeros(len(live), weights.shape[-1], dtype=torch.bool, device=live.device)
        possible = torch.ones_like(live[:, 0]) if live.shape[1] else torch.ones(len(live), dtype=torch.bool)
        for k in range(live.shape[1]):
            here, one = standing[:, k], weights[:, k] > 0
            possible = possible & ~(here & ~one.any(-1))
            if distinct:
                possible = possible & ~(here & (one & used).any(-1))
            held = held & (rhymes.masses(weights[:, k]).gt(0) | ~here[:, None])
            used = used | (one & here[:, None])
        order = (~open_).long().argsort(dim=-1, stable=True)[:, : int(open_.sum(-1).max()) if len(live) else 0]
        open_ = open_.gather(1, order)
        weights = weights.gather(1, order[..., None].expand(-1, -1, weights.shape[-1]))
        weights = weights * open_[..., None] * ~(used & distinct)[:, None]
        possible = possible & (held.any(-1) | ~standing.any(-1))
        return cls(rhymes, distinct, weights, open_, order, held, possible, live.shape[1])

    def mass(self) -> Tensor:
        """Z (n,) by (5) and (6); where rounding eats a mass that there is, a tiny one."""
        inner = {block: self.rhymes.masses(product) for block, product in _blocks(self.weights, self.distinct)}
        total = torch.zeros(self.held.shape, dtype=torch.float64, device=self.held.device)
        for blocks, sign in partitions(self.weights.shape[1], self.distinct):
            term = torch.full_like(total, float(sign))
            for block in blocks:
                alone = (~self.open[:, block[0], None]) & (len(block) == 1)
                term = term * torch.where(alone, 1.0, inner[block])
            total = total + term
        mass = (total * self.rhymes.sign * self.held).sum(-1)
        reach = self.held
        for k in range(self.weights.shape[1]):
            reach = reach & (self.rhymes.masses(self.weights[:, k]).gt(0) | ~self.open[:, k, None])
        least = reach.any(-1) * LEAST ** (self.weights.shape[1] + 1)
        return torch.where(self.open.any(-1), torch.maximum(mass, least), 1.0) * self.possible

    def draw(self, size: int, rows: Tensor, rng: Rng) -> Tensor:
        """Tokens (size, R); those of `rows` (n,) are drawn, each word by what is left for the ones after it."""
        rhymes, pairs = self.rhymes, self.rhymes.pair_token
        weights, held = self.weights, self.held
        result = torch.zeros(size, self.ends, dtype=torch.long, device=held.device)
        for k in range(self.ends):  # as many draws whichever rows stand together
            if k >= weights.shape[1]:
                rng.categorical(torch.zeros(size, 1, device=held.device))
                continue
            here, rest, open_ = self.open[:, k, None], weights[:, k + 1 :], self.open[:, k + 1 :]
            inner = {block: (product, rhymes.masses(product)) for block, product in _blocks(rest, self.distinct)}
            value = weights.new_zeros(len(rows), len(pairs))
            for blocks, sign in partitions(rest.shape[1], self.distinct):
                term = torch.full_like(value, float(sign))
                for block in blocks:
                    product, masses = inner[block]
                    left = masses[:, rhymes.pair_set] - (product[:, pairs] if self.distinct else 0.0)
                    alone = (~open_[:, block[0], None]) & (len(block) == 1)
                    term = term * torch.where(alone, 1.0, left)
                value = value + term
            value = value * (rhymes.sign * held)[:, rhymes.pair_set]
            score = weights.new_zeros(len(rows), len(rhymes.tokens)).index_add(1, pairs, value)
            reach = held
            for j in range(rest.shape[1]):
                reach = reach & (rhymes.masses(rest[:, j]).gt(0) | ~open_[:, j, None])
            able = (reach.double() @ rhymes.member.T.double()) > 0
            logits = (weights[:, k] * torch.where(able, score.clamp(min=LEAST**2), 0.0)).log()
            table = torch.full((size, len(rhymes.tokens)), -torch.inf, dtype=torch.float64, device=held.device)
            table[:, 0] = 0.0
            table[rows] = torch.where(here, logits, table[rows])
            token = rng.categorical(table)[rows]
            result[rows, self.slot[:, k]] = torch.where(here[:, 0], rhymes.tokens[token], result[rows, self.slot[:, k]])
            held = torch.where(here, held & rhymes.member[token], held)
            if self.distinct:
                weights = weights.masked_fill((one_hot(token, len(rhymes.tokens)).bool() & here)[:, None], 0.0)
        return result


def _blocks(weights: Tensor, distinct: bool) -> list[tuple[tuple[int, ...], Tensor]]:
    """(block, Π of its weights (n, C)) of all blocks that `partitions` uses."""
    n = weights.shape[1]
    sizes = range(1, (n if distinct else min(n, 1)) + 1)
    blocks = [block for size in sizes for block in itertools.combinations(range(n), size)]
    return [(block, weights[:, list(block)].prod(1)) for block in blocks]


@cache
def partitions(n: int, distinct: bool) -> tuple[tuple[tuple[tuple[int, ...], ...], int], ...]:
    """Set partitions of n things with the coefficients of (6); without `distinct` only the finest, with 1."""
    if not distinct:
        return ((tuple((k,) for k in range(n)), 1),)
    result: list[list[tuple[int, ...]]] = [[]]
    for k in range(n):
        grown = []
        for blocks in result:
            grown += [[*blocks[:i], (*block, k), *blocks[i + 1 :]] for i, block in enumerate(blocks)]
            grown.append([*blocks, (k,)])
        result = grown
    signs = [math.prod((-1) ** (len(b) - 1) * math.factorial(len(b) - 1) for b in blocks) for blocks in result]
    return tuple((tuple(blocks), sign) for blocks, sign in zip(result, signs, strict=True))
