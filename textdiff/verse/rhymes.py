"""Rhyme words that share a group and differ: their mass under independent positions, and an exact draw of them.

There are K open words; position k takes the rhyme token v with weight w_k(v).  A token may be in several groups, so summing over
groups would count a tuple of words once for each group that it shares.  Inclusion and exclusion over the sets G of groups
counts it once,

    1[the words share a group] = Σ_{∅ ≠ G} (−1)^{|G|+1} · 1[every group of G holds every word]                         (1)

and only such G matter as all belong to one token.  That all words differ is a sum over the set partitions π of the positions,

    1[all words differ] = Σ_π Π_{b ∈ π} (−1)^{|b|−1} (|b| − 1)! · 1[the words of block b are the same]                 (2)

(the Möbius function of the partition lattice).  The product of both, summed over all tuples, leaves for each G and π a product
over blocks, each a sum over the tokens that every group of G holds:

    Z = Σ_G (−1)^{|G|+1} Σ_π Π_{b ∈ π} (−1)^{|b|−1} (|b| − 1)! Σ_{v ∈ ∩G} Π_{k ∈ b} w_k(v)                             (3)

Words that stand restrict the sum to the G whose groups hold them, and their tokens have weight 0 elsewhere.  The words are drawn
one after another, each token v in proportion to w_k(v) times (3) for the words after it, with v taken out.

*Two words, worked.*  Groups a = {1, 2} and b = {2, 3}.  The sets G are {a}, {b} and {a, b} (token 2 has both).  With all
weights 1 the partitions give |∩G|² − |∩G|: 2 for {a}, 2 for {b}, 0 for {a, b}, so Z = 2 + 2 − 0 = 4, the pairs 12, 21, 23, 32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng
from textdiff.shaping.restricted import LEAST


@dataclass(frozen=True, eq=False)
class RhymeTable:
    """Which of the C tokens that rhyme stand in which of the K sets of groups, the G of (1)."""

    tokens: Tensor  # (C,) ids of the tokens that have a group
    place: Tensor  # (V,) index of a token among them, C where it has no group
    pair_token: Tensor  # (N,) the pairs of a token, as an index into `tokens`, …
    pair_set: Tensor  # (N,) … and a set whose groups all hold it
    sign: Tensor  # (K,) (−1)^{|G|+1}
    size: Tensor  # (K,) |G|
    member: Tensor  # (C, K) bool: the same pairs as a table
    level_only: Tensor  # (C,) bool: the token has no oblique reading
    kind: Tensor  # (C,) the kind of a token: those of one kind have the same groups, and are all level only or none is
    holds: Tensor  # (kinds, K) float64: 1 where a set holds the tokens of a kind
    level_holds: Tensor  # (kinds, K) the same for the kinds that are level only, 0 for the others

    @cached_property
    def around(self) -> Tensor:
        """(C + 1, K) bool: the sets that hold a token; none for the place of a token without a group."""
        return torch.cat([self.member, torch.zeros_like(self.member[:1])])

    def by_kind(self, w: Tensor) -> Tensor:
        """Σ over the tokens of each kind of weights w (…, C), (…, kinds).  Times `holds` this is the sum over each set."""
        flat = w.flatten(0, -2)
        return (
            flat.new_zeros(len(flat), len(self.holds))
            .index_add(1, self.kind, flat)
            .view(*w.shape[:-1], len(self.holds))
        )


def rhyme_table(groups: Sequence[frozenset[str]], level: Tensor, writable: Tensor, enough: int) -> RhymeTable:
    """From each token's groups (V); level (V,) bool where a token has level readings alone.

    Groups with fewer than `enough` writable tokens are left out; AskedError if none remains.
    """
    can = writable.tolist()
    counts: dict[str, int] = {}
    for k, belongs in enumerate(groups):
        for group in belongs:
            counts[group] = counts.get(group, 0) + can[k]
    large = {group for group, n in counts.items() if n >= enough}
    tokens = [k for k, belongs in enumerate(groups) if belongs & large]
    if not tokens:
        raise AskedError(
            f"no rhyme group asked for has the {enough} tokens that it takes; ask for another, or for less"
        )
    numbers: dict[tuple[str, ...], int] = {}
    pairs = []
    for place, k in enumerate(tokens):
        names = sorted(groups[k] & large)
        for n in range(1, len(names) + 1):
            for chosen in itertools.combinations(names, n):
                pairs.append((place, numbers.setdefault(chosen, len(numbers))))
    device = level.device
    index = torch.tensor(tokens, dtype=torch.long, device=device)
    pair_token, pair_set = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).T
    member = torch.zeros(len(tokens), len(numbers), dtype=torch.bool, device=device)
    member[pair_token, pair_set] = True
    place_of = torch.full((len(groups),), len(tokens), device=device)
    place_of[index] = torch.arange(len(tokens), device=device)
    size = torch.tensor([len(chosen) for chosen in numbers], device=device)
    sign = 1.0 - 2.0 * (1 - size % 2).double()
    level_only = level[index]
    kinds, kind = torch.cat([member, level_only[:, None]], 1).unique(dim=0, return_inverse=True)
    holds = kinds[:, :-1].double()
    return RhymeTable(
        index, place_of, pair_token, pair_set, sign, size, member, level_only, kind, holds, holds * kinds[:, -1:]
    )


@dataclass(frozen=True)
class OpenWords:
    """The rhyme words of n rows: K of them open, each row's open ones first; R words in all, open or standing."""

    table: RhymeTable
    distinct: bool
    weights: Tensor  # (n, K, C) w_k(v) of (3), 0 where a row has fewer than K open words
    open: Tensor  # (n, K) bool
    slot: Tensor  # (n, K) which of the R words the k-th is
    common: Tensor  # (n, sets) bool: the G whose groups hold every word that stands
    possible: Tensor  # (n,) bool: the words that stand share a group and differ
    words: int  # R

    @classmethod
    def of(
        cls, table: RhymeTable, distinct: bool, weights: Tensor, place: Tensor, counts: Tensor, read: Tensor
    ) -> OpenWords:
        """From the R words of n texts: which of them count and which are read from a prediction, (n, R) bool.

        A word that counts is open if it is read, with weights (n, R, C), and stands if it is not, with its `place` (n, R) in
        the table.
        """
        standing, open_ = counts & ~read, counts & read
        common = (table.around[place] | ~standing[..., None]).all(1)
        grouped = place < len(table.tokens)
        possible = (grouped | ~standing).all(-1) & (common.any(-1) | ~standing.any(-1))
        if distinct:
            apart = torch.where(standing, place, -1 - torch.arange(place.shape[1], device=place.device))
            possible = possible & (apart.sort(-1).values.diff(dim=-1) != 0).all(-1)
        order = (~open_).long().argsort(dim=-1, stable=True)[:, : int(open_.sum(-1).max()) if len(counts) else 0]
        open_ = open_.gather(1, order)
        weights = weights[torch.arange(len(order), device=order.device)[:, None], order]
        if not open_.all():
            weights = weights * open_[..., None]
        rows, words = (standing & grouped & distinct).nonzero(as_tuple=True)
        if len(rows):
            weights[rows, :, place[rows, words]] = 0.0
        return cls(table, distinct, weights, open_, order, common, possible, counts.shape[1])

    @cached_property
    def _sums(self) -> Tensor:
        """Of the product of weights of each block: the sum over the tokens of each kind, (blocks, n, kinds)."""
        return self.table.by_kind(_products(self.weights, self.distinct))

    def mass(self) -> Tensor:
        """Z (n,) of (3); a tiny number where rounding eats a mass that there is."""
        return self._mass(self._sums @ self.table.holds, self.open)

    def mass_by_last(self) -> Tensor:
        """Z (n, 3) by what the last of the R words is, where it is open: no rhyme word, one, or one without an oblique reading."""
        blocks, last = blocks_of(self.weights.shape[1], self.distinct), (self.slot == self.words - 1) & self.open
        sums = self._sums @ self.table.holds
        if not blocks:
            return self._mass(sums, self.open)[:, None].expand(-1, 3)
        inside = torch.stack([last[:, list(block)].any(-1) for block in blocks])[..., None]  # (blocks, n, 1)
        level = torch.where(inside, self._sums @ self.table.level_holds, sums)
        ways = torch.stack([torch.where(inside, 0.0, sums), sums, level])
        return self._mass(ways, torch.stack([self.open & ~last, self.open, self.open])).T

    def _mass(self, sums: Tensor, open_: Tensor) -> Tensor:
        """(3) from the sums of the blocks (…, blocks, n, sets), and which words are open (…, n, K), (…, n)."""
        blocks, size = blocks_of(self.weights.shape[1], self.distinct), self.weights.shape[1]
        inner = list(sums.unbind(-3))  # single words come first
        closed = ~open_[..., None]
        reach = self.common
        for k in range(size):
            reach = reach & ((inner[k] > 0) | closed[..., k, :])
            inner[k] = torch.where(closed[..., k, :], 1.0, inner[k])
        of_block = dict(zip(blocks, inner, strict=True))
        total: Any = 0.0
        for parts, sign in partitions(size, self.distinct):
            term: Any = float(sign)
            for block in parts:
                term = term * of_block[block]
            total = total + term
        mass = (total * (self.table.sign * self.common)).sum(-1)
        count = open_.sum(-1)
        least = reach.any(-1) * LEAST ** (count + 1.0).double()
        return torch.where(count > 0, torch.maximum(mass, least), 1.0) * self.possible

    def draw(self, size: int, rows: Tensor, rng: Rng) -> Tensor:
        """Tokens (size, R) of a batch of `size` rows, in which these are the rows `rows` (n,); the other rows stay 0."""
        table, pairs = self.table, self.table.pair_token
        weights, common = self.weights, self.common
        result = torch.zeros(size, self.words, dtype=torch.long, device=common.device)
        for k in range(self.words):  # as many draws whichever rows stand together
            if k >= weights.shape[1]:
                rng.weighted(torch.ones(size, 1, dtype=torch.float64, device=common.device))
                continue
            here, rest, open_ = self.open[:, k, None], weights[:, k + 1 :], self.open[:, k + 1 :]
            blocks, products = blocks_of(rest.shape[1], self.distinct), _products(rest, self.distinct)
            sums = table.by_kind(products) @ table.holds
            inner = dict(zip(blocks, zip(products, sums, strict=True), strict=True))
            value = weights.new_zeros(len(rows), len(pairs))  # (3) for the words after k, for each pair of token and G
            for parts, sign in partitions(rest.shape[1], self.distinct):
                term = torch.full_like(value, float(sign))
                for block in parts:
                    product, masses = inner[block]
                    left = masses[:, table.pair_set] - (product[:, pairs] if self.distinct else 0.0)
                    alone = (~open_[:, block[0], None]) & (len(block) == 1)
                    term = term * torch.where(alone, 1.0, left)
                value = value + term
            value = value * (table.sign * common)[:, table.pair_set]
            score = weights.new_zeros(len(rows), len(table.tokens)).index_add(1, pairs, value)
            reach = common
            for j in range(rest.shape[1]):
                reach = reach & ((inner[j,][1] > 0) | ~open_[:, j, None])
            able = (reach.double() @ table.holds.T > 0)[:, table.kind]
            chances = torch.zeros(size, len(table.tokens), dtype=torch.float64, device=common.device)
            chances[:, 0] = 1.0
            chances[rows] = torch.where(
                here, weights[:, k] * torch.where(able, score.clamp(min=LEAST**2), 0.0), chances[rows]
            )
            token = rng.weighted(chances)[rows]
            result[rows, self.slot[:, k]] = torch.where(here[:, 0], table.tokens[token], result[rows, self.slot[:, k]])
            common = torch.where(here, common & table.member[token], common)
            if self.distinct:
                weights = weights.masked_fill((one_hot(token, len(table.tokens)).bool() & here)[:, None], 0.0)
        return result


@cache
def blocks_of(n: int, distinct: bool) -> tuple[tuple[int, ...], ...]:
    """All blocks that `partitions` uses, the smaller ones first."""
    sizes = range(1, (n if distinct else min(n, 1)) + 1)
    return tuple(block for size in sizes for block in itertools.combinations(range(n), size))


def _products(weights: Tensor, distinct: bool) -> Tensor:
    """Π of the weights of each block of `blocks_of`, (blocks, n, C), from weights (n, K, C)."""
    blocks = blocks_of(weights.shape[1], distinct)
    result = weights.new_empty(len(blocks), len(weights), weights.shape[-1])
    for k, block in enumerate(blocks):
        if len(block) == 1:
            result[k] = weights[:, block[0]]
        else:
            torch.mul(result[blocks.index(block[:-1])], weights[:, block[-1]], out=result[k])
    return result


@cache
def partitions(n: int, distinct: bool) -> tuple[tuple[tuple[tuple[int, ...], ...], int], ...]:
    """Set partitions of n things with the coefficients of (2); without `distinct` only the finest one, with 1."""
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
