"""What may be asked of tones and rhyme, and what it comes to: which texts the law of a form holds, and where a keyword goes."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verse.forms import SEQUENCES, TYPES, get_form, line_types, widened
from textdiff.verse.law import E, Law, P, W, Z
from textdiff.verse.pattern import Pattern, kept_to, pattern_of
from textdiff.verse.prosody import Prosody, place_keyword, possible, verse_law

CHARACTERS = ["天", "月", "[MASK]"]  # a level, an oblique one
LEVEL, OBLIQUE, MASK = range(3)


def tonal_law(form: str) -> Law:
    return verse_law(get_form(form), Prosody(tones="strict"), CHARACTERS, MASK, torch.tensor([True, True, False]))


def in_law(law: Law, patterns: list[str]) -> bool:
    """Whether the law holds the text that has just these tones, level where a pattern leaves it open."""
    ids = torch.tensor([OBLIQUE if mark == "z" else LEVEL for mark in "".join(patterns)])
    return possible(law, ids, range(len(ids)))


@pytest.mark.parametrize("opening", SEQUENCES)
@pytest.mark.parametrize("form", ["wuyan-jueju", "qiyan-lushi"])
def test_strict_tones_are_the_templates_and_for_b_the_licensed_one(form: str, opening: str) -> None:
    law, width, types = tonal_law(form), get_form(form).width, line_types(opening, get_form(form).lines)
    plain = [widened(TYPES[kind], width) for kind in types]
    assert in_law(law, plain)
    for k in [k for k, kind in enumerate(types) if kind == "b"]:
        for five, holds in (("·pzpz", True), ("·pppz", False)):
            assert in_law(law, [*plain[:k], widened(five, width), *plain[k + 1 :]]) == holds, five


def test_a_lone_level_tone_is_avoided_by_the_first_or_by_the_third_character() -> None:
    form, opening = get_form("wuyan-jueju"), next(opening for opening in SEQUENCES if "B" in opening)
    avoid = Prosody(tones="strict", avoid=("guping",))
    law = verse_law(form, avoid, CHARACTERS, MASK, torch.tensor([True, True, False]))
    types = line_types(opening, form.lines)
    place = types.index("B")
    for five, holds in (("pppzp", True), ("ppzzp", True), ("zppzp", True), ("zpzzp", False)):
        lines = [TYPES[kind] for kind in types]
        lines[place] = five
        assert in_law(law, lines) == holds, five


@pytest.mark.parametrize("no_repeat", [False, True])
@pytest.mark.parametrize("first", [None, 1])
def test_a_rhyme_group_needs_as_many_words_as_there_are_to_rhyme(first: int | None, no_repeat: bool) -> None:
    needed = 6 if no_repeat else 2 + (first is not None)
    parts = {
        "sequences": [[["··"]] * 3],
        "words": (3, 5),
        "first": first,
        "rhyming_first": (True,),
        "no_repeat": no_repeat,
    }

    def law(words: int) -> Law:
        groups = [frozenset("a")] * words + [frozenset()] * 10
        return Law.of(3, 2, letters=(P,) * len(groups), unread=len(groups) - 1, groups=groups, **parts)

    assert law(needed).rhymes is not None
    with pytest.raises(ValueError, match=f"no rhyme group asked for has the {needed} tokens that it takes"):
        law(needed - 1)


LETTERS = (P, Z, E, P)
PATTERNS = [[["pz"], ["zp"]], [["zp"], ["·p"]]]


@pytest.mark.parametrize("writable_alone", [True, False])
@pytest.mark.parametrize("keyword", [[0], [1, 0], [2, 3]])
def test_a_keyword_stands_in_proportion_to_the_mass_of_the_texts_that_have_it_there(
    keyword: list[int], writable_alone: bool
) -> None:
    """Under the law, every text with it at a place counted with its probability: P(place) ∝ Σ q(x)."""
    mask = len(LETTERS)
    law = Law.of(2, 2, letters=(*LETTERS, W), unread=mask, writable=torch.arange(mask + 1) < mask, sequences=PATTERNS)
    logits = Rng([11]).normal(4, mask + 1)[0]
    if writable_alone:  # otherwise the network gives some mass, of another size at each place, to what is never written
        logits = logits.index_fill(-1, torch.tensor([mask]), -torch.inf)
    x, q = torch.full((1, 4), mask), logits.softmax(-1)
    free = torch.ones_like(x, dtype=torch.bool)

    def fits(text: tuple[int, ...]) -> bool:
        letters = [LETTERS[v] for v in text]
        return any(
            all(
                mark == "·" or a in (E, P if mark == "p" else Z)
                for a, mark in zip(letters, upper[0] + lower[0], strict=True)
            )
            for upper, lower in PATTERNS
        )

    mass: Counter[int] = Counter()
    for text in filter(fits, itertools.product(range(mask), repeat=4)):
        for start in [k for k in range(4) if k % 2 + len(keyword) <= 2]:
            if list(text[start : start + len(keyword)]) == keyword:
                mass[start] += torch.stack([q[i, v] for i, v in enumerate(text)]).prod().item()

    def f(items: Tensor, rng: Rng) -> Tensor:
        rows = x.expand(len(items), -1)
        at = (rows == mask).nonzero(as_tuple=True)
        prediction = Categorical(lambda index: logits[at[1][index]], at, rows)
        _, left = place_keyword(prediction, law, keyword, rows, free.expand(len(items), -1), 2, rng=rng)
        return left.long().argmin(-1)

    _, start, chance = enumerate_draws(f, torch.zeros(1, dtype=torch.long), 4)
    for place, probability in zip(start.tolist(), chance.tolist(), strict=True):
        assert probability == pytest.approx(mass[place] / mass.total(), abs=1e-9)
    assert set(start.tolist()) == set(mass)


@pytest.mark.parametrize("rhyming", [False, True])
def test_the_end_of_the_first_line_is_exchanged_for_what_the_sequence_of_the_draft_has_there(rhyming: bool) -> None:
    groups = [frozenset("a"), frozenset("a"), frozenset("b"), *[frozenset()] * 3]
    law = Law.of(
        2, 2, letters=(P, E, P, Z, Z, W), unread=5, groups=groups, words=(3,), first=1,
        sequences=[[["p·"], ["··"]], [["z·"], ["··"]]], rhyming_first=(True, False), writable=torch.arange(6) < 5,
    )  # fmt: skip
    pattern = pattern_of(law, torch.tensor([[2 if rhyming else 3, 1, 4, 0]]))
    able = pattern.table[pattern.classes[0, 1]].nonzero()[:, 0].tolist()
    assert able == ([0, 1] if rhyming else [1, 3, 4])
    assert pattern.table[pattern.classes[0, 3]].nonzero()[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("no_repeat", [False, True])
def test_a_standing_token_may_stay_and_a_word_that_stands_elsewhere_may_not_come(
    no_repeat: bool, several: bool
) -> None:
    x, table = torch.tensor([[0, 1, 2]]), torch.ones(1, 6, dtype=torch.bool)
    pattern = Pattern(torch.zeros_like(x), table, (1, 2), no_repeat)
    at = positions_of(torch.ones_like(x, dtype=torch.bool))

    def predictor(query: Query) -> Categorical:
        return Categorical(lambda index: torch.zeros(len(index), 6), query.at, query.x_t)

    logits = kept_to(predictor, pattern, several)(Query(x, torch.ones(x.shape), at=at)).logits()
    able = logits > -torch.inf
    assert able[torch.arange(3), x[0]].all()
    assert not able[1, 2] and not able[2, 1]
    assert bool(able[0, 1]) != no_repeat


def test_a_token_is_exchanged_for_another_one_of_its_class_each_as_often() -> None:
    table, n = torch.tensor([[True, True, False, True], [False, True, True, False]]), 1000
    x = torch.tensor([[1, 2]]).expand(n, -1)
    pattern = Pattern(torch.tensor([[0, 1]]).expand(n, -1), table, (), False)
    found = pattern.tokens(x, torch.ones_like(x, dtype=torch.bool), rng=Rng(range(n)), differ=True)
    counts = torch.bincount(found[:, 0], minlength=4)
    assert (found[:, 1] == 1).all() and counts[1] == counts[2] == 0
    assert abs(counts[0] - n / 2) < 4.5 * (n / 4) ** 0.5


def test_the_end_of_the_first_line_tells_which_sequences_are_left() -> None:
    groups = [frozenset("a")] * 3 + [frozenset()] * 3
    law = Law.of(
        2, 2, letters=(P, P, P, Z, E, W), unread=5, groups=groups, words=(3,), first=1,
        sequences=[[["··"], ["··"]]] * 2, rhyming_first=(False, True),
    )  # fmt: skip
    for end, left in ((P, 0b10), (Z, 0b01), (E, 0b11), (W, 0b11)):
        sequences, _ = law.alive(torch.tensor([[W, end, W, W]]))
        assert sequences.item() == left
