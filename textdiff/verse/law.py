"""The set of texts that a strict request allows: tones, one rhyme, no word twice.  Everything else in strict verse is drawn from it.

A text has `lines` lines of `width` tokens.  What a token is to the law is its *letter*, P (level), Z (oblique), E (a reading of
each kind) or W (no reading), and the rhyme groups of its level readings.  A *pattern* says what one line may be, a mark for
each place: p takes P and E, z takes Z and E, · takes everything.  A *sequence* names for each line the patterns that it may
have.  A text is in the set C iff there is a sequence s such that

    in every line the letters fit at least one of the patterns that s allows there,                                    (1)
    the rhyme words share a rhyme group, and no two of them are the same token,                                        (2)
    the end of the first line is one of the rhyme words if s says so, and else it is oblique (Z or E).                 (3)

A token with letter W fits everything where it is given, and is never written.  With `no_repeat` no token stands twice:

    all tokens of the text differ.                                                                                     (4)

*The automaton of (1).*  A line is read from left to right.  The state after j letters is the set of patterns that these letters
fit so far, so the automaton is deterministic, and all lines share it: its start is the set of all patterns.  The state at a
line's end tells which sequences the line keeps, and a text keeps those that all its lines keep.

*Two lines, worked.*  Let lines have two places, and let the sequences be

    s0:  pz / zp          (line 0 must fit pz, line 1 must fit zp)
    s1:  zp / ·p

The patterns, in sorted order, are pz, zp and ·p.  From the start {pz, zp, ·p} the letter P leads to {pz, ·p}, Z to {zp, ·p}
and E to all three; then P leads from {pz, ·p} to {·p}, which as line 0 keeps no sequence and as line 1 keeps s1.  The text PZ/EP
has the final states {pz} and {zp, ·p}; line 0 keeps {s0}, line 1 keeps {s0, s1}, so the text keeps {s0} and is in C.

*Bit sets.*  A set of patterns or of sequences is the integer whose bit k is 1 iff the k-th is in the set; a tensor of them is
int64, and `&` intersects.  Where a shape says "as bits", the entries are such integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from textdiff.verse.rhymes import RhymeTable, rhyme_table

P, Z, E, W = range(4)
LETTERS = 4
LEVEL, OBLIQUE = -2, -1  # what a mark asks, in one range with the letters: P or E, Z or E
MARKS = {"·": (P, Z, E, W), "p": (P, E, W), "z": (Z, E, W)}  # the letters that meet a mark
NEVER = 1 << 30  # more tokens than any vocabulary has
ASKS = {"·": W, "p": LEVEL, "z": OBLIQUE}


def union(sets: Sequence[int]) -> int:
    """The union of bit sets."""
    result = 0
    for one in sets:
        result |= one
    return result


def at_most_one(sets: Tensor) -> Tensor:
    """Whether bit sets have at most one member, bool."""
    return (sets & (sets - 1)) == 0


def first_only(sets: Tensor) -> Tensor:
    """The bit sets with their first member alone."""
    return sets & -sets


def first_index(sets: Tensor) -> Tensor:
    """The index of the first member of bit sets that are not empty."""
    return first_only(sets).double().log2().long()


@dataclass(frozen=True, eq=False)
class Law:
    """The set C over a vocabulary of V tokens; `Law.of` builds it.  S is the number of states, L = lines · width."""

    lines: int
    width: int
    letter: Tensor  # (V,) P, Z, E or W
    writable: Tensor  # (V,) bool
    unread: int  # the id that an open position shows
    states: Tensor  # (S,) the patterns of each state, as bits; state 0 is the start
    following: Tensor  # (width, S, 4) index of the state that a letter leads to from a state, place by place
    kept: Tensor  # (lines, S) the sequences that a line keeps which ends in a state, as bits
    patterns: Tensor  # (sequences, lines) the patterns that a sequence allows a line, as bits
    under: (
        Tensor  # (2^sequences, lines) the patterns that any sequence of a set (axis 0, as bits) allows a line, as bits
    )
    marks: Tensor  # (patterns, width) what a pattern asks of a place: W (nothing), LEVEL or OBLIQUE
    fitting: Tensor  # (6, V) bool: the tokens for LEVEL, OBLIQUE, P, Z, E, W
    tonal: Tensor  # (L,) bool: where some pattern asks something
    rhyming_first: int  # the sequences whose first line rhymes, as bits
    words: tuple[int, ...]  # positions of the rhyme words; () without rhyme
    first: int | None  # position of the end of the first line, where (3) is asked
    rhymes: RhymeTable | None
    distinct: bool
    no_repeat: bool

    @classmethod
    def of(
        cls,
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

        letters (V) of P, Z, E, W; sequences[s][line] the patterns (strings of `p z ·`) that s allows a line; groups (V) the
        rhyme groups of each token, where `words` are the positions of the rhyme words; `first` and `rhyming_first[s]` as
        (3) asks; `distinct` False lets rhyme words be the same.  A group that has fewer writable tokens than there are
        rhyme words, or with `no_repeat` fewer than the text has positions, is left out.
        """
        sequences = sequences or [[["·" * width]] * lines]
        listed = sorted({pattern for sequence in sequences for line in sequence for pattern in line})
        bit = {pattern: 1 << k for k, pattern in enumerate(listed)}
        fits = [[union([bit[p] for p in listed if c in MARKS[p[j]]]) for c in range(LETTERS)] for j in range(width)]
        states = [union(list(bit.values()))]
        for state in states:  # the list grows while it is walked
            states += sorted({state & fits[j][c] for j in range(width) for c in range(LETTERS)} - set(states))
        index = {state: k for k, state in enumerate(states)}
        patterns = [[union([bit[p] for p in line]) for line in sequence] for sequence in sequences]
        subsets = [[s for s in range(len(patterns)) if chosen >> s & 1] for chosen in range(2 ** len(patterns))]
        letter = torch.tensor(letters, device=device)
        allowed = letter != W
        if writable is not None:
            allowed = allowed & writable.to(device)
        enough = lines * width if no_repeat else len(words) + (first is not None)
        tied = first if first is not None and words and any(rhyming_first) else None
        return cls(
            lines=lines,
            width=width,
            letter=letter,
            writable=allowed,
            unread=unread,
            states=torch.tensor(states, device=device),
            following=torch.tensor(
                [[[index[state & fits[j][c]] for c in range(LETTERS)] for state in states] for j in range(width)],
                device=device,
            ),
            kept=torch.tensor(
                [
                    [union([1 << s for s, row in enumerate(patterns) if state & row[k]]) for state in states]
                    for k in range(lines)
                ],
                device=device,
            ),
            patterns=torch.tensor(patterns, device=device),
            under=torch.tensor(
                [[union([patterns[s][k] for s in subset]) for k in range(lines)] for subset in subsets], device=device
            ),
            marks=torch.tensor([[ASKS[mark] for mark in pattern] for pattern in listed], device=device),
            fitting=torch.stack(
                [
                    (letter == P) | (letter == E),
                    (letter == Z) | (letter == E),
                    *(letter == one for one in (P, Z, E)),
                    torch.ones_like(allowed),
                ]
            ),
            tonal=torch.tensor([any(p[j] != "·" for p in listed) for j in range(width)], device=device).repeat(lines),
            rhyming_first=union([1 << s for s, rhymes in enumerate(rhyming_first) if rhymes]),
            words=tuple(words),
            first=tied,
            rhymes=rhyme_table(groups, letter == P, allowed, enough) if groups is not None and words else None,
            distinct=distinct,
            no_repeat=no_repeat,
        )

    @property
    def sequences(self) -> int:
        """The number of sequences."""
        return len(self.patterns)

    @property
    def ends(self) -> tuple[int, ...]:
        """The positions that (2) and (3) judge: the rhyme words, then the first line's end where it may be one."""
        return self.words if self.first is None else (*self.words, self.first)

    @cached_property
    def is_end(self) -> Tensor:
        """Whether a position is one of `ends`, (L,) bool."""
        marked = torch.zeros(self.lines * self.width, dtype=torch.bool, device=self.letter.device)
        marked[list(self.ends)] = True
        return marked

    @cached_property
    def joined(self) -> Tensor:
        """The intersection of every two sets of sequences, as bits, (2^sequences · 2^sequences,)."""
        sets = torch.arange(2**self.sequences, device=self.letter.device)
        return (sets[:, None] & sets).flatten()

    @cached_property
    def lettering(self) -> Tensor:
        """Which letter a token has, (V, 4) float32 of 0 and 1.

        Rows (N, V) are multiplied by it, and never its transpose by theirs: that product rounds a row by how many others there are.
        """
        return one_hot(self.letter, LETTERS).float()

    def known(self, x: Tensor) -> Tensor:
        """Letters of x (B, L) where something stands, W where a position is open, (B, L)."""
        return torch.where(x == self.unread, W, self.letter[x])

    def alive(self, letters: Tensor) -> tuple[Tensor, Tensor]:
        """What letters (B, L) leave: the sequences (B,) and each line's patterns (B, lines), both as bits; W leaves all."""
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
        """(rows (B,), lines (B, lines)) bool where the asked positions (B, L) bool no longer depend on each other.

        `left` is what `alive` gives.  A row is settled if one sequence is left and no asked position is an end; a line is
        settled if one pattern is left to it.
        """
        sequences, patterns = left
        one = at_most_one(sequences)
        if self.words:
            one = one & ~asked[:, list(self.ends)].any(-1)
        return one, at_most_one(patterns & self.under[sequences])

    def required(self, left: tuple[Tensor, Tensor]) -> Tensor:
        """What the first sequence and patterns of `left` (`alive`) ask of each position, (B, L): W, LEVEL or OBLIQUE."""
        sequences, patterns = left
        chosen = patterns & self.under[first_only(sequences)]
        return self.marks[first_index(chosen)].flatten(1)

    def coupled(self, x: Tensor, asked: Tensor) -> Tensor:
        """The open positions of x (B, L) whose predictions a joint draw at `asked` (B, L) bool needs, these included, (B, L).

        A line that is not settled needs its own; a row that several sequences are left to needs all lines; where an end is
        asked, or may decide between the sequences, all ends are needed.
        """
        letters, open_ = self.known(x), x == self.unread
        left = self.alive(letters)
        one, untied = self.settled(left, asked)
        touched = asked.view(len(x), self.lines, self.width).any(-1)
        if bool((one & (untied | ~touched).all(-1)).all()):
            return asked
        sequences = left[0]
        several = ~at_most_one(sequences)
        need = (several & asked.any(-1))[:, None] | (~untied & touched).repeat_interleave(self.width, 1)
        need = need & self.tonal
        if self.words:
            need = torch.where(self.is_end, self._needs_rhyme(letters, sequences, asked)[:, None], need)
        return asked | (need & open_)

    def _needs_rhyme(self, letters: Tensor, sequences: Tensor, asked: Tensor) -> Tensor:
        """Rows (B,) bool whose draw depends on the rhyme words."""
        needed = asked[:, list(self.ends)].any(-1)
        if self.first is not None:
            end = letters[:, self.first]
            both = ((sequences & self.rhyming_first) != 0) & ((sequences & ~self.rhyming_first) != 0)
            needed = needed | (both & ((end == W) | (end == E)) & asked.any(-1))
        return needed

    # No token twice (4).

    @cached_property
    def ample(self) -> bool:
        """Whether no class of tokens can run short: each letter that any writable token has, enough for every position."""
        counts = torch.stack([((self.letter == c) & self.writable).sum() for c in (P, Z, E)])
        return bool(((counts == 0) | (counts >= self.lines * self.width)).all() and (counts > 0).any())

    @cached_property
    def groups(self) -> Tensor:
        """Which tokens each single rhyme group holds, (groups, V) bool; without rhyme one group that holds none."""
        if self.rhymes is None:
            return torch.zeros(1, len(self.letter), dtype=torch.bool, device=self.letter.device)
        single = (self.rhymes.size == 1).nonzero()[:, 0]
        holds = torch.zeros(len(single), len(self.letter), dtype=torch.bool, device=self.letter.device)
        holds[:, self.rhymes.tokens] = self.rhymes.member[:, single].T
        return holds

    def completable(self, x: Tensor) -> Tensor:
        """Whether a text of C under (4) agrees with x (n, L) wherever something stands there, (n,) bool.  Exact.

        Take one sequence s, one pattern for each line and one rhyme group g.  Then a open positions ask for a level token,
        b for an oblique one, r for a token of g, and the rest for any; each needs a token of its own that stands nowhere.
        This is a matching of positions with tokens, and with so few kinds of demand Hall's condition has six cases:

            a ≤ #(P, E),   a + r ≤ #(P, E, g),   b ≤ #(Z, E),   b + r ≤ #(Z, E, g),   r ≤ #(g),   open ≤ #(all)        (5)

        with # the number of writable tokens that stand nowhere.  The patterns matter only through a and b, so for each a
        the least b that some choice of patterns comes to is found line by line.
        """
        open_ = x == self.unread
        times = torch.zeros(len(x), len(self.letter), dtype=torch.long, device=x.device)
        times = times.scatter_add(1, x, (~open_).long())
        spare, differ = self.writable & (times == 0), (times < 2).all(-1)
        letters = self.known(x)
        patterns = self.alive(torch.where(self.is_end, W, letters))[1]  # (2) and (3) judge the ends
        possible = torch.zeros_like(differ)
        ends = torch.tensor(self.ends, dtype=torch.long, device=x.device)
        for s in range(self.sequences):
            rhyming = bool(self.rhyming_first >> s & 1)
            words = ends if self.first is None or rhyming else ends[:-1]
            least = self._demands(s, patterns, open_)  # (n, L + 1)
            closed = self.first is not None and not rhyming
            oblique = open_[:, self.first].long() if closed else torch.zeros_like(letters[:, 0])
            fits = letters[:, self.first] != P if closed else torch.ones_like(possible)
            for holds in self.groups:
                wanted = open_[:, words].sum(-1)
                inside = (open_[:, words] | holds[x[:, words]] | (letters[:, words] == W)).all(-1)
                possible |= fits & inside & self._matched(least, oblique, wanted, open_, spare, holds)
        return possible & differ

    def _demands(self, s: int, patterns: Tensor, open_: Tensor) -> Tensor:
        """For a = 0 … L the least b of (5) under sequence s, (n, L + 1), NEVER or more where a cannot be; ends left out.

        `patterns` (n, lines) are those alive, as bits, and `open_` (n, L) says where a position is open.
        """
        n, size = open_.shape
        inner = (open_ & ~self.is_end).view(n, self.lines, self.width)
        least = torch.full((n, size + 1), NEVER, device=open_.device)
        least[:, 0] = 0
        for k in range(self.lines):
            grown = torch.full_like(least, NEVER)
            for p, asks in enumerate(self.marks):
                can = (patterns[:, k] & self.patterns[s, k] & (1 << p)) != 0
                level, oblique = ((inner[:, k] & (asks == kind)).sum(-1) for kind in (LEVEL, OBLIQUE))
                before = torch.arange(size + 1, device=open_.device) - level[:, None]
                moved = least.gather(1, before.clamp(min=0)) + oblique[:, None]
                grown = torch.where((can[:, None] & (before >= 0)), torch.minimum(grown, moved), grown)
            least = grown
        return least

    def _matched(
        self, least: Tensor, oblique: Tensor, wanted: Tensor, open_: Tensor, spare: Tensor, holds: Tensor
    ) -> Tensor:
        """(5) for some a and the least b of it, (n,) bool; `oblique` (n,) more ask for an oblique token, `wanted` (n,) for g."""
        level, other = self.fitting[0], self.fitting[1]

        def count(kind: Tensor) -> Tensor:
            return (spare & kind).sum(-1)

        most_a = torch.minimum(count(level), count(level | holds) - wanted)
        most_b = torch.minimum(count(other), count(other | holds) - wanted) - oblique
        rest = (wanted <= count(holds)) & (open_.sum(-1) <= count(torch.ones_like(level)))
        a = torch.arange(least.shape[1], device=least.device)
        return rest & ((a <= most_a[:, None]) & (least <= most_b[:, None])).any(-1)

    def able(self, x: Tensor, column: int) -> Tensor:
        """The tokens that may be written at an open column of x (n, L) so that the text stays completable, (n, V) bool.

        Tokens with the same letter and the same groups are alike, so one that stands nowhere speaks for them all.
        """
        candidate = (self.writable & ~present(x, len(self.letter)))[:, None] & self._kinds  # (n, kinds, V)
        row, kind = candidate.any(-1).nonzero(as_tuple=True)
        text = x[row].clone()
        text[:, column] = candidate[row, kind].long().argmax(-1)
        lasting = torch.zeros_like(candidate[..., 0]).index_put((row, kind), self.completable(text))
        return (candidate & lasting[..., None]).any(1)

    @cached_property
    def _kinds(self) -> Tensor:
        """The writable tokens of each letter and set of groups, (kinds, V) bool."""
        labels = torch.cat([self.letter[None], self.groups.long()])
        _, kind = labels.unique(dim=1, return_inverse=True)
        table = one_hot(kind).T.bool() & self.writable
        return table[table.any(-1)]


def present(x: Tensor, size: int) -> Tensor:
    """Which of `size` tokens stand in x (n, L), (n, size) bool."""
    none = torch.zeros(len(x), size, dtype=torch.bool, device=x.device)
    return none.scatter(1, x, torch.ones_like(x, dtype=torch.bool))
