"""The joint law of a text's letters and rhyme words: independent positions, restricted to a `Law`, summed by forward–backward.

A prediction gives each position i its own law q_i.  For tones only the mass that q_i gives each letter matters, m_i(c) with
c = P, Z, E, W (where a token stands, all the mass is on its letter; where nothing is known, on W, which fits everything).

*Within a line* the hidden states are those of the law's automaton.  With δ_j(σ, c) the state that follows σ at place j,

    α_0 = 1 at the start,      α_{j+1}(σ′) = Σ_{(σ, c): δ_j(σ, c) = σ′} α_j(σ) · m_j(c)                                  (1)

is the mass of the first j letters that end in a state.  The state at the line's end tells which sequences the line keeps:

    λ_k(A) = Σ_{σ: line k keeps A in σ} α_width(σ)            for each set A of sequences                              (2)

*Over the lines* the hidden state is the set B of sequences that all lines so far keep, and a line intersects it:

    γ_0 = 1 at the set of all,      γ_{k+1}(B′) = Σ_{(B, A): B ∩ A = B′} γ_k(B) · λ_k(A)                                 (3)

Both automata are deterministic, so a text is counted once however many patterns or sequences it fits.  The γ are divided by
their sums as they go, and the logs of the divisors are kept.  The ends of lines that the rhyme judges count as W in (1); given
B, they come in by the mass of the rhyme words (`rhymes`), and the end of the first line in one of three ways:

    0   it is no rhyme word, and oblique: some sequence of B does not rhyme there, and the letter is Z or E (or unknown)
    1   it is a rhyme word: every sequence of B rhymes there
    2   both kinds of sequence are in B, and it is a rhyme word without an oblique reading (one with it is counted by 0)

    Z = Σ_B γ_lines(B) Σ_way (mass of the rhyme words that way)                                                        (4)

*The draw* goes backwards: B and the way in proportion to the terms of (4); then, from the last line to the first, the pair (B, A)
that led to B′ in (3); then for each line a final state that keeps A, and the letters from the last to the first by (1); then
the rhyme words.

*Two lines, worked.*  Take the example of `law`, s0: pz / zp and s1: zp / ·p, with letters P and Z alone, ½ each.  The four ways
to write a line end in the states PZ {pz}, PP {·p}, ZP {zp, ·p} and ZZ {}, a quarter each.  As line 0 they keep {s0}, {}, {s1}
and {}; so λ_0({s0}) = λ_0({s1}) = ¼.  As line 1 they keep {}, {s1}, {s0, s1} and {}; so λ_1({s1}) = λ_1({s0, s1}) = ¼.  Then γ_1 is
λ_0, and γ_2({s0}) = γ_1({s0}) · λ_1({s0, s1}) = 1/16, γ_2({s1}) = γ_1({s1}) · (λ_1({s1}) + λ_1({s0, s1})) = 2/16.  Z is 3/16,
the texts PZ/ZP, ZP/PP and ZP/ZP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from textdiff.core.predictions import positions_of
from textdiff.core.rng import Rng
from textdiff.verse.law import LETTERS, OBLIQUE, E, Law, P, W, Z
from textdiff.verse.rhymes import OpenWords

WAYS = 3  # in which the first line may end


class Ends(NamedTuple):
    """What is said of the R ends of B texts: C rhyme tokens by a prediction, or a token that stands."""

    weights: Tensor  # (B, R, C) of an open end, float64; 0 elsewhere
    place: Tensor  # (B, R) of the token that stands, in the table of the rhyme words
    known: Tensor  # (B, R) bool: there is a prediction, or a token with a reading stands

    def rows(self, index: Tensor) -> Ends:
        return self if len(index) == len(self.place) else Ends(*(part[index] for part in self))


class Sums(NamedTuple):
    """What forward–backward keeps for the draw; n is the number of sequences."""

    alphas: list[Tensor]  # α_j of (1), (B, lines, S), for j = 0 … width
    lines: list[Tensor]  # λ_k of (2), (B, 2^n), for each line
    gammas: list[Tensor]  # γ_k of (3), (B, 2^n), for k = 0 … lines


@dataclass(frozen=True)
class Joint:
    """What a prediction says of the letters and rhyme words of B texts of a law."""

    law: Law
    open: Tensor  # (B, L) bool: there is a prediction
    asked: Tensor  # (B, L) bool: some of them, which are to be drawn
    letters: Tensor  # (B, L, 4) m_i(c), float64
    words: Ends | None

    def rows(self, index: Tensor) -> Joint:
        """The rows index (n,), in order."""
        if len(index) == len(self.open):
            return self
        words = None if self.words is None else self.words.rows(index)
        return Joint(self.law, self.open[index], self.asked[index], self.letters[index], words)

    def with_tokens(self, x: Tensor) -> Joint:
        """With x's tokens standing at the asked positions."""
        law, words = self.law, self.words
        sure = one_hot(law.letter[x], LETTERS).double()
        letters = torch.where(self.asked[..., None], sure, self.letters)
        if words is not None and law.rhymes is not None:
            ends = list(law.ends)
            words = words._replace(place=torch.where(self.asked[:, ends], law.rhymes.place[x[:, ends]], words.place))
        return replace(self, open=self.open & ~self.asked, letters=letters, words=words)

    def log_mass(self) -> Tensor:
        """log Z of (4), (B,)."""
        terms, scale, _ = self._terms(torch.ones_like(self.asked[:, 0]))
        return terms.flatten(1).sum(-1).log() + scale

    def draw(self, rng: Rng, other: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """(letters (B, L), tokens at the R ends (B, R), which ends to take them at (B, R) bool).

        Sets and letters are drawn from `rng`, the rhyme words from `other`.
        """
        law = self.law
        terms, _, sums = self._terms(torch.zeros_like(self.asked[:, 0]))
        place = rng.weighted(terms.flatten(1))
        way = place % WAYS
        letter = self._draw_letters(place // WAYS, sums, rng)
        if law.rhymes is None:
            return letter, letter, self.asked
        wanted = self.asked[:, list(law.ends)]
        if law.first is not None:
            wanted = torch.cat([wanted[:, :-1], wanted[:, -1:] & (way > 0)[:, None]], 1)
            letter[:, law.first] = OBLIQUE
        there = wanted.any(-1).nonzero()[:, 0]
        drawn = self._open_words(way[there], there).draw(len(letter), there, other)
        return letter, drawn, wanted

    # -- tones ----------------------------------------------------------------------------------------------------------

    def _line_letters(self) -> Tensor:
        """m_i(c) by line, (B, lines, width, 4); W for sure at the ends that the rhyme judges."""
        anything = one_hot(torch.tensor(W, device=self.letters.device), LETTERS).double()
        letters = torch.where(self.law.is_end[:, None], anything, self.letters)
        return letters.view(len(letters), self.law.lines, self.law.width, LETTERS)

    def _forward(self, letters: Tensor) -> list[Tensor]:
        """α_j of (1), (B, lines, S) for j = 0 … width."""
        law = self.law
        none = letters.new_zeros(*letters.shape[:2], len(law.states))
        alpha = none.clone()
        alpha[..., 0] = 1.0
        result = [alpha]
        for letter, following in zip(letters.unbind(2), law.following, strict=True):
            moved = (alpha[..., None] * letter[:, :, None]).flatten(-2)  # (B, lines, S · 4)
            alpha = none.index_add(-1, following.flatten(), moved)
            result.append(alpha)
        return result

    def _over_lines(self, last: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """λ_k of (2), γ_k of (3) and the log of what the γ were divided by (B,), from α_width (B, lines, S)."""
        law = self.law
        none = last.new_zeros(len(last), 2**law.sequences)
        gamma = none.clone()
        gamma[:, -1] = 1.0
        lines, gammas, totals = [], [gamma], []
        for kept, ends in zip(law.kept, last.unbind(1), strict=True):
            line = none.index_add(1, kept, ends)
            gamma = none.index_add(1, law.joined, (gamma[:, :, None] * line[:, None]).flatten(1))
            gamma[:, 0] = 0.0  # where no sequence is left, the text is not in C
            totals.append(gamma.sum(-1, keepdim=True))
            gamma = gamma / torch.where(totals[-1] > 0, totals[-1], 1.0)
            lines.append(line)
            gammas.append(gamma)
        return lines, gammas, torch.cat(totals, 1).log().sum(-1)

    def _terms(self, rows: Tensor) -> tuple[Tensor, Tensor, Sums]:
        """The terms of (4), (B, 2^n, 3), as shares of exp(scale (B,)).

        Axis 1 is the set of sequences that the text keeps, axis 2 the way in which the first line ends.  The mass of the
        rhyme words is left out where it is the same for all terms of a row, since the draw does not need it then; it is
        worked out where it differs, and for `rows` (B,) bool.
        """
        law = self.law
        alphas = self._forward(self._line_letters())
        lines, gammas, scale = self._over_lines(alphas[-1])
        mass, sums = gammas[-1], Sums(alphas, lines, gammas)
        if law.first is None:
            only = (mass * self._rhyme_masses(rows))[..., None]
            return torch.cat([only, 0 * only, 0 * only], -1), scale, sums
        sets = torch.arange(2**law.sequences, device=scale.device)
        rhyming, other = (sets & law.rhyming_first) != 0, (sets & ~law.rhyming_first) != 0
        either = (mass * rhyming).any(-1) & (mass * other).any(-1)
        words = self._rhyme_masses(rows | (either & self.open[:, list(law.ends)].any(-1)))
        end = self.letters[:, law.first, :, None]  # (B, 4, 1)
        ways = [
            ((end[:, Z] + end[:, E]) * other + end[:, W]) * words[:, :1],
            (rhyming & ~other) * words[:, 1:2],
            (rhyming & other) * words[:, 2:],
        ]
        return mass[..., None] * torch.stack(ways, -1), scale, sums

    def _draw_letters(self, sets: Tensor, sums: Sums, rng: Rng) -> Tensor:
        """Letters (B, L) of texts that keep just these sets of sequences (B,), backwards through (3), (2) and (1)."""
        law, size = self.law, 2**self.law.sequences
        kept = []
        for k in reversed(range(law.lines)):
            fits = law.joined == sets[:, None]  # (B, size²)
            chosen = rng.weighted((sums.gammas[k][:, :, None] * sums.lines[k][:, None]).flatten(1) * fits)
            sets = chosen // size
            kept.append(chosen % size)
        fits = law.kept == torch.stack(kept[::-1], 1)[..., None]  # (B, lines, S)
        at = positions_of(torch.ones_like(fits[..., 0]))
        masses = self._line_letters()

        def weights(k: int, chosen: Tensor | None) -> Tensor:
            """Of the state at the lines' ends, then of the state before and the letter, from the last place to the first."""
            if chosen is None:
                return (sums.alphas[-1] * fits).flatten(0, 1)  # (B · lines, S)
            state, j = chosen if k == 1 else chosen // LETTERS, law.width - k
            leads = law.following[j].flatten() == state[:, None]  # (B · lines, S · 4)
            return (sums.alphas[j][..., None] * masses[:, :, j, None, :]).view(leads.shape) * leads

        _, *letters = rng.chain(1 + law.width, weights, at)
        return (torch.stack(letters[::-1], -1) % LETTERS).view_as(self.asked)

    # -- rhyme words ----------------------------------------------------------------------------------------------------

    def _rhyme_masses(self, rows: Tensor) -> Tensor:
        """The mass of rhyme words that share a group and differ, for each way of (4), (B, 3); (B, 1) where there is one way.

        Outside `rows` (B,) bool it is 1 or 0 only: whether the words that stand allow it.
        """
        law, words = self.law, self.words
        mass = self.letters.new_ones(len(rows), 1 if law.first is None else WAYS)
        if words is None:
            return mass
        there = rows.nonzero()[:, 0]
        if law.first is None:
            if len(there):
                mass[there, 0] = self._open_words(torch.zeros_like(there), there).mass()
            return mass
        end = self.letters[:, law.first]  # an end of which nothing is known, or without a reading, is no rhyme word
        mass[:, 1:] = torch.stack([end[:, P] + end[:, E], end[:, P]], 1) > 0
        if len(there):
            mass[there] *= self._open_words(torch.ones_like(there), there).mass_by_last()
        standing = ~self.open[:, law.first]
        there = (standing & rows).nonzero()[:, 0]
        if len(there):  # what stands there is no rhyme word in way 0
            mass[there, 0] = self._open_words(torch.zeros_like(there), there).mass()
        there = (standing & words.known[:, -1] & ~rows).nonzero()[:, 0]
        if len(there):
            mass[there, 1:] *= self._open_words(torch.ones_like(there), there).possible[:, None]
        return mass

    def _open_words(self, way: Tensor, rows: Tensor) -> OpenWords:
        """The rhyme words of `rows` (n,), the first line's end among them where its way (n,) says so."""
        law = self.law
        assert self.words is not None and law.rhymes is not None
        words, counts = self.words.rows(rows), self.words.known[rows]
        weights = words.weights
        if law.first is not None:
            counts = torch.cat([counts[:, :-1], counts[:, -1:] & (way > 0)[:, None]], 1)
            doubtful = (way == 2).nonzero()[:, 0]
            if len(doubtful):
                weights = weights.index_put((doubtful, torch.tensor(-1)), weights[doubtful, -1] * law.rhymes.level_only)
        open_ = self.open[rows][:, list(law.ends)]
        return OpenWords.of(law.rhymes, law.distinct, weights, words.place, counts, open_)
