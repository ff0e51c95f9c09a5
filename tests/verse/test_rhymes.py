"""Rhyme words against brute force: every tuple of tokens tried, for as many words as an octave has."""

from __future__ import annotations

import itertools

import pytest
import torch

from textdiff.core.rng import Rng
from textdiff.verse.joint import Joint
from textdiff.verse.law import E, Law, P, W, Z
from textdiff.verse.rhymes import OpenWords, partitions, rhyme_table

GROUPS = [frozenset(groups) for groups in ("a", "ab", "b", "abc", "a", "ab", "", "b")]
NOTHING = torch.zeros(1, 5, dtype=torch.long)  # the places of standing words, where none stands


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("words", [1, 2, 4, 5])
def test_the_mass_is_that_of_all_tuples_that_share_a_group_and_differ(words: int, distinct: bool) -> None:
    table = rhyme_table(GROUPS, torch.ones(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool), 2)
    tokens = table.tokens.tolist()
    large = [groups & {"a", "b"} for groups in GROUPS]  # c has one token alone
    weights = Rng([words]).uniform(words, len(tokens))
    every = torch.ones(1, words, dtype=torch.bool)
    total = 0.0
    for chosen in itertools.product(range(len(tokens)), repeat=words):
        alike = frozenset.intersection(*(large[tokens[k]] for k in chosen))
        if alike and (not distinct or len(set(chosen)) == words):
            total += weights[0, torch.arange(words), list(chosen)].prod().item()
    assert OpenWords.of(table, distinct, weights, NOTHING[:, :words], every, every).mass().item() == pytest.approx(
        total, rel=1e-9
    )


def test_the_coefficients_of_set_partitions_cancel_whatever_is_not_all_different() -> None:
    """For five equal things they sum to 0, for one thing to 1."""
    assert [sum(sign for _, sign in partitions(n, True)) for n in range(1, 6)] == [1, 0, 0, 0, 0]


def test_the_two_lines_of_the_documentation() -> None:
    """The sums that the example of `joint` works out by hand."""
    law = Law.of(2, 2, letters=(P, Z, E, W), unread=3, sequences=[[["pz"], ["zp"]], [["zp"], ["·p"]]])
    letters = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64).expand(1, 4, 4)
    every = torch.ones(1, 4, dtype=torch.bool)
    joint = Joint(law, every, every, letters, None)
    assert joint.log_mass().exp().item() == pytest.approx(3 / 16)
    sequences, patterns = law.alive(torch.tensor([[P, Z, E, P]]))
    assert sequences.item() == 0b01 and patterns.tolist() == [[0b001, 0b110]]


def test_two_words_of_the_documentation() -> None:
    groups = [frozenset("a"), frozenset("ab"), frozenset("b")]
    table = rhyme_table(groups, torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool), 2)
    every = torch.ones(1, 2, dtype=torch.bool)
    assert OpenWords.of(
        table, True, torch.ones(1, 2, 3).double(), NOTHING[:, :2], every, every
    ).mass().item() == pytest.approx(4)


def test_the_least_mass_of_a_text_does_not_depend_on_the_texts_beside_it() -> None:
    """Weights so small that rounding eats their mass, for one open word and for two."""
    table = rhyme_table(GROUPS, torch.ones(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool), 2)
    weights = torch.full((2, 2, len(table.tokens)), 1e-200, dtype=torch.float64)
    counts = torch.tensor([[True, False], [True, True]])
    together = OpenWords.of(table, True, weights, NOTHING[:, :2].expand(2, 2), counts, counts).mass().tolist()
    alone = [
        OpenWords.of(table, True, weights[[k]], NOTHING[:, :2], counts[[k]], counts[[k]]).mass().item()
        for k in range(2)
    ]
    assert together == alone == [pytest.approx(1e-24), pytest.approx(1e-36)]


def test_the_masses_by_the_last_word_are_those_of_the_words_without_it_with_it_and_with_it_level() -> None:
    """Four texts: all words open, one that stands, the last that stands, none open."""
    level = torch.tensor([True, True, False, True, False, True, True, True])
    table = rhyme_table(GROUPS, level, torch.ones(8, dtype=torch.bool), 2)
    every = torch.ones(4, 3, dtype=torch.bool)
    read = torch.tensor([[True] * 3, [False, True, True], [True, True, False], [False] * 3])
    place, weights = torch.tensor([[0, 1, 3]]).expand(4, 3), Rng(range(4)).uniform(3, len(table.tokens))
    without, with_level = every.clone(), weights.clone()
    without[read[:, -1], -1] = False
    with_level[:, -1] *= table.level_only
    apart = [
        OpenWords.of(table, True, each, place, counts, read).mass()
        for each, counts in ((weights, without), (weights, every), (with_level, every))
    ]
    together = OpenWords.of(table, True, weights, place, every, read).mass_by_last()
    assert torch.allclose(together, torch.stack(apart, -1), rtol=1e-12)
    assert (together[:2] > 0).all() and together[0, 2] < together[0, 1]
