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
    words: (
        tuple[Tensor, Tensor] | None
    )  # at the law's R ends: weights of the rhyme tokens (B, R, C); what is known (B, R) bool

    def rows(self, index: Tensor) -> Joint:
        """The rows index (n,)."""
        words = None if self.words is None else (self.words[0][index], self.words[1][index])
        return Joint(self.law, self.open[index], self.asked[index], self.letters[index], words)

    def with_tokens(self, x: Tensor) -> Joint:
        """With x's tokens standing at the asked positions."""
        law, words = self.law, self.words
        sure = one_hot(law.letter[x], LETTERS).double()
        letters = torch.where(self.asked[..., None], sure, self.letters)
        if words is not None and law.rhymes is not None:
            ends, size = list(law.ends), len(law.rhymes.tokens)
            certain = one_hot(law.rhymes.place[x[:, ends]], size + 1)[..., :size].double()
            words = (torch.where(self.asked[:, ends][..., None], certain, words[0]), words[1])
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
        place = rng.categorical(terms.flatten(1).log())
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
        alpha = letters.new_zeros(*letters.shape[:2], len(law.states))
        alpha[..., 0] = 1.0
        result = [alpha]
        for j in range(law.width):
            moved = (alpha[..., None] * letters[:, :, j, None, :]).flatten(-2)  # (B, lines, S · 4)
            alpha = torch.zeros_like(alpha).index_add(-1, law.following[j].flatten(), moved)
            result.append(alpha)
        return result

    def _over_lines(self, last: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """λ_k of (2), γ_k of (3) and the log of what the γ were divided by (B,), from α_width (B, lines, S)."""
        law, sets = self.law, torch.arange(2**self.law.sequences, device=last.device)
        joined = (sets[:, None] & sets).flatten()
        gamma = last.new_zeros(len(last), len(sets))
        gamma[:, -1] = 1.0
        scale = last.new_zeros(len(last))
        lines, gammas = [], [gamma]
        for k in range(law.lines):
            line = torch.zeros_like(gamma).index_add(1, law.kept[k], last[:, k])
            gamma = torch.zeros_like(gamma).index_add(1, joined, (gamma[:, :, None] * line[:, None]).flatten(1))
            gamma = gamma * (sets > 0)  # where no sequence is left, the text is not in C
            total = gamma.sum(-1, keepdim=True)
            gamma = gamma / torch.where(total > 0, total, 1.0)
            scale = scale + total[:, 0].log()
            lines.append(line)
            gammas.append(gamma)
        return lines, gammas, scale

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
            only = (mass * self._rhyme_mass(0, rows)[:, None])[..., None]
            return torch.cat([only, 0 * only, 0 * only], -1), scale, sums
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
        return mass[..., None] * torch.stack(ways, -1), scale, sums

    def _draw_letters(self, sets: Tensor, sums: Sums, rng: Rng) -> Tensor:
        """Letters (B, L) of texts that keep just these sets of sequences (B,), backwards through (3), (2) and (1)."""
        law, size = self.law, 2**self.law.sequences
        pairs = torch.arange(size * size, device=sets.device)  # B · size + A
        kept = []
        for k in reversed(range(law.lines)):
            fits = ((pairs // size) & (pairs % size))[None] == sets[:, None]
            weight = (sums.gammas[k][:, :, None] * sums.lines[k][:, None]).flatten(1) * fits
            chosen = rng.categorical(weight.log())
            sets = chosen // size
            kept.append(chosen % size)
        fits = law.kept[None] == torch.stack(kept[::-1], 1)[..., None]  # (B, lines, S)
        at = positions_of(torch.ones_like(fits[..., 0]))
        state = rng.categorical((sums.alphas[-1] * fits).flatten(0, 1).log(), at=at)  # (B · lines,)
        masses, letters = self._line_letters(), []
        for j in reversed(range(law.width)):
            fits = law.following[j].flatten() == state[:, None]  # (B · lines, S · 4)
            weight = (sums.alphas[j][..., None] * masses[:, :, j, None, :]).flatten(-2).flatten(0, 1) * fits
            chosen = rng.categorical(weight.log(), at=at)
            state = chosen // LETTERS
            letters.append(chosen % LETTERS)
        return torch.stack(letters[::-1], -1).view_as(self.asked)

    # -- rhyme words ----------------------------------------------------------------------------------------------------

    def _rhyme_mass(self, way: int, rows: Tensor) -> Tensor:
        """The mass (B,) of rhyme words, for a way of (4), that share a group and differ.

        Outside `rows` (B,) bool it is 1 or 0 only: whether the words that stand allow it.
        """
        law = self.law
        mass = torch.ones_like(self.letters[:, 0, 0])
        if self.words is None:
            return mass
        stands = torch.zeros_like(rows)
        if way and law.first is not None:
            end = self.letters[:, law.first]  # an end of which nothing is known, or without a reading, is no rhyme word
            mass = mass * ((end[:, P] + (end[:, E] if way == 1 else 0.0)) > 0)
            stands = self.words[1][:, -1] & ~self.open[:, law.first]
        for there, exact in ((rows.nonzero()[:, 0], True), ((stands & ~rows).nonzero()[:, 0], False)):
            if len(there):
                words = self._open_words(torch.full_like(there, way), there)
                found = words.mass() if exact else words.possible.double()
                mass = mass.index_put((there,), found * mass[there])
        return mass

    def _open_words(self, way: Tensor, rows: Tensor) -> OpenWords:
        """The rhyme words of `rows` (n,), the first line's end among them where its way (n,) says so."""
        law = self.law
        assert self.words is not None and law.rhymes is not None
        weights, counts = self.words[0][rows], self.words[1][rows]
        if law.first is not None:
            last = weights[:, -1:] * torch.where((way == 2)[:, None, None], law.rhymes.level_only, True)
            weights = torch.cat([weights[:, :-1], last], 1)
            counts = torch.cat([counts[:, :-1], counts[:, -1:] & (way > 0)[:, None]], 1)
        return OpenWords.of(law.rhymes, law.distinct, weights, counts, self.open[rows][:, list(law.ends)])
