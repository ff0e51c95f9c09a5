"""Strict prosody for the replacement process: each row keeps one pattern and one rhyme group from its first draft on.

The replacement process exchanges tokens of a whole text, so the text must be in the law at every level.  A draft of the law
fixes, for each row, one pattern a line and one rhyme group; from then on every position has a class of tokens (level,
oblique, the group, or all writable ones), and tokens are exchanged within their classes.  Rhyme words, or with `no_repeat` all
tokens, must stay apart as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, TokenPredictor
from textdiff.core.rng import Rng
from textdiff.shaping.restricted import LEAST
from textdiff.shaping.tokens import shaped
from textdiff.verse.law import LEVEL, OBLIQUE, Law, first_index


@dataclass(frozen=True, eq=False)
class Pattern:
    """A class of tokens for every position of B rows, and which positions must hold different tokens."""

    classes: Tensor  # (B, L) the class of each position, an index into table
    table: Tensor  # (K, V) bool: the tokens of each class
    words: tuple[int, ...]  # positions whose tokens must differ from one another
    no_repeat: bool  # all tokens of a row must differ

    @cached_property
    def rank(self) -> Tensor:
        """The rank of a token within a class, counted from 1 in the order of ids, (K, V); of use for its own tokens only."""
        return self.table.long().cumsum(-1)

    @cached_property
    def listed(self) -> tuple[Tensor, Tensor]:
        """The tokens of each class in the order of ids, padded to the largest class, (K, most), and their number (K,)."""
        sizes = self.table.sum(-1)
        order = (~self.table).long().argsort(dim=-1, stable=True)
        return order[:, : int(sizes.max())], sizes

    def tokens(self, x: Tensor, where: Tensor, *, rng: Rng, differ: bool) -> Tensor:
        """Uniform tokens of the classes at `where` (B, L) bool, other than those of x if `differ`; x elsewhere.

        Where tokens must differ, the new ones also differ from all that x has there: then any text that takes some of its
        tokens from x and the others from the result has none twice.
        """
        listed, sizes = self.listed
        inside = self.table[self.classes, x] & differ
        drawn = rng.integers(torch.where(where, sizes[self.classes] - inside.long(), 1))
        drawn = drawn + (inside & (drawn >= self.rank[self.classes, x] - 1)).long()
        result = torch.where(where, listed[self.classes, drawn], x)
        apart = range(x.shape[1]) if self.no_repeat else self.words
        if not apart:
            return result
        pick = rng.branch()
        taken = torch.zeros(len(x), self.table.shape[1], dtype=torch.bool, device=x.device)
        standing = ~where if not differ else torch.ones_like(where)
        for k in apart:
            taken = taken.scatter(1, x[:, k, None], standing[:, k, None] | taken.gather(1, x[:, k, None]))
        for k in apart:
            able = self.table[self.classes[:, k]] & ~taken
            token = pick.categorical(torch.where(able, 0.0, -torch.inf))
            token = torch.where(where[:, k], token, x[:, k])
            result = result.index_put((torch.arange(len(x), device=x.device), torch.tensor(k)), token)
            taken = taken.scatter(1, token[:, None], True)
        return result


def pattern_of(law: Law, draft: Tensor) -> Pattern:
    """The first sequence, the first pattern of each line and the first rhyme group that a draft (B, L) of the law keeps."""
    letters = law.letter[draft]
    sequences, patterns = law.alive(letters)
    sequence = first_index(sequences)
    asks = law.required((sequences, patterns))
    marks = torch.where(asks == LEVEL, 1, torch.where(asks == OBLIQUE, 2, 0))
    can = law.writable
    table = [can, can & law.fitting[0], can & law.fitting[1]]
    if law.rhymes is not None:
        rhymes, ends = law.rhymes, list(law.words)
        shared = rhymes.member[rhymes.place[draft[:, ends]]].all(1) & (rhymes.size == 1)  # (B, sets of groups)
        group = shared.long().argmax(-1)
        inside = torch.zeros(len(rhymes.size), len(law.letter), dtype=torch.bool, device=draft.device)
        inside[:, rhymes.tokens] = rhymes.member.T
        table += list(can & inside)
        marks[:, ends] = 3 + group[:, None].expand(-1, len(ends))
        if law.first is not None:
            rhyming = (law.rhyming_first >> sequence) & 1 == 1
            marks[:, law.first] = torch.where(rhyming, 3 + group, 2)
    return Pattern(marks, torch.stack(table), law.ends if law.distinct else (), law.no_repeat)


def kept_to(predictor: TokenPredictor, pattern: Pattern, several: bool) -> TokenPredictor:
    """`predictor` of a replacement process, held to `pattern`: a position takes tokens of its class, and no word stands twice.

    Where a step may exchange `several` tokens, two rhyme words could be exchanged for the same token.  So tokens are dealt to the
    rhyme positions in turn, by their rank, and a token may be drawn at the position that it was dealt to and at no other; the
    deal changes with the text.  The token that stands is always allowed.
    """
    apart = list(pattern.words)

    def predict(query: Query) -> Categorical:
        x_t = query.x_t
        standing = torch.zeros(len(x_t), pattern.table.shape[1], dtype=torch.bool, device=x_t.device)
        slot = torch.full((x_t.shape[1],), -1, device=x_t.device)
        if apart:
            standing = standing.scatter(1, x_t[:, apart], True)
            slot[apart] = torch.arange(len(apart), device=x_t.device)
        if pattern.no_repeat:
            standing = standing.scatter(1, x_t, True)
        deal = x_t[:, apart].sum(-1) if apart else x_t[:, 0]

        def shape(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
            kind = pattern.classes[rows, positions]
            able = pattern.table[kind]
            word = slot[positions]
            barred = standing[rows] & ((word >= 0)[:, None] | pattern.no_repeat)
            if several and apart:
                turn = (pattern.rank[kind] + deal[rows][:, None]) % len(apart)
                barred = barred | ((turn != word[:, None]) & (word >= 0)[:, None])
            able = able & ~barred
            able = able.scatter(1, x_t[rows, positions][:, None], True)
            top = logits.amax(-1, keepdim=True)
            logits = torch.where(top > -torch.inf, logits - top, 0.0).clamp(min=math.log(LEAST))
            return logits.masked_fill(~able, -torch.inf)

        return shaped(predictor, shape)(query)

    return predict
