"""The texts of a law of regulated verse (`verse.law`) as a trellis, so that they can match an expression at the same time.

A state after some of the text's characters says

    B       the sequences that the text keeps so far
    G, F    the rhyme groups that the rhyme words so far share, and of these the ones of the first line's end
    σ       the patterns that are left to the line that is being read

and the first line's end counts as in (3) of `verse.law`: sequences that rhyme there go on with the groups F, the others with G.  What
a state does not say is which rhyme words stood: here they may be the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from textdiff.core.errors import AskedError
from textdiff.shaping.match.automaton import Table
from textdiff.shaping.match.trellis import MOST_WAYS, Layout, Trellis, of_moves
from textdiff.verse.law import Law, P, W, Z

State = tuple[int, int, int, int]  # B, G, F and σ as bit sets; σ is 0 between two lines
Kinds = tuple[Table, list[tuple[int, int]]]  # the kind of each token (V,), from 1, and of a kind its letter and groups


def trellis_of_law(law: Law, layout: Layout, device: torch.device | str = "cpu") -> Trellis | None:
    """The texts of a law that have the places of a layout, each a place of the law; its other places are open.

    Tokens that the law never writes stand in none of them.
    """
    reader = Reader.of(law)
    states: list[State] = [((1 << law.sequences) - 1, reader.groups, reader.groups, 0)]
    kinds, moves = list[Table](), list[Table]()
    cells = [place.position for place in layout.places]
    for k, cell in enumerate(cells):
        ends = k + 1 == len(cells) or cells[k + 1] != cell + 1 or cells[k + 1] % law.width == 0
        kind, readings = reader.ends if cell in law.ends else reader.inner
        index: dict[State, int] = {}
        rows = [[-1, *(index.setdefault(s, len(index)) if s else -1 for s in some)] for some in
                (reader.after(state, cell, ends, readings) for state in states)]  # fmt: skip
        if len(index) * len(readings) > MOST_WAYS:
            raise AskedError("the tones and rhyme leave too many ways to be kept beside an expression; ask for less")
        if not index:
            return None
        kinds.append(kind)
        moves.append(np.array(rows))
        states = list(index)
    return of_moves(cells, kinds, moves, np.ones(len(states), dtype=bool), device)


@dataclass(frozen=True)
class Reader:
    """Goes through the states; what the tokens of a vocabulary are to it."""

    law: Law
    fits: list[list[int]]  # (width, 4) the patterns that a letter fits at a place, as bits
    patterns: list[list[int]]  # (sequences, lines) of the law
    groups: int  # all of them
    inner: Kinds  # of tokens within a line
    ends: Kinds  # of tokens at the ends that the rhyme judges

    @classmethod
    def of(cls, law: Law) -> Reader:
        """Of a law."""
        letters = torch.where(law.writable, law.letter, W).cpu().numpy()
        held = law.groups.cpu().numpy()
        columns, kind = np.unique(np.vstack([letters[None], held]), axis=1, return_inverse=True)
        ends = [(int(c[0]), sum(1 << g for g in np.flatnonzero(c[1:]).tolist())) for c in columns.T]
        inner = np.where(letters == W, 0, letters + 1), [(letter, 0) for letter in range(W)]
        fits = law.states[law.following[:, 0]].tolist()  # from the start, where all patterns are left
        return cls(law, fits, law.patterns.tolist(), (1 << len(held)) - 1, inner, (kind.reshape(-1) + 1, ends))

    def after(self, state: State, cell: int, ends: bool, readings: list[tuple[int, int]]) -> list[State | None]:
        """The state after a token of each reading at a cell, None where no text goes on so.

        `ends` says whether it is the last of the text in its line.
        """
        law, (line, column) = self.law, divmod(cell, self.law.width)
        result: list[State | None] = []
        for letter, groups in readings:
            b, g, f, left = state
            left = (left or -1) & self.fits[column][W if cell in law.ends else letter]
            if cell == law.first:
                f &= groups
                b &= law.rhyming_first if letter == P else ~law.rhyming_first if letter == Z else -1
            elif cell in law.ends:
                g, f = g & groups, f & groups
            if law.first is None:
                f = g
            elif not f:
                b &= ~law.rhyming_first
            b, left = self._kept(b, left, line)
            if law.first is not None:  # the groups that nothing goes on with are forgotten
                f = f if b & law.rhyming_first else 0
                g = g if b & ~law.rhyming_first else f
            result.append((b, g, f, 0 if ends else left) if b and g and letter != W else None)
        return result

    def _kept(self, sequences: int, left: int, line: int) -> tuple[int, int]:
        """The sequences that have a pattern left in a line, and these patterns."""
        kept = found = 0
        for s, patterns in enumerate(self.patterns):
            if sequences >> s & 1 and (meet := patterns[line] & left):
                kept, found = kept | 1 << s, found | meet
        return kept, found
