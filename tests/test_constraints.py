"""Constrained draws against brute force: the set written down as a predicate, every text tried."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from textdiff.constraints import E, Law, P, Restricted, W, Z, constrained, law
from textdiff.predictions import Categorical
from textdiff.rng import Rng
from textdiff.verify import enumerate_draws

# Eight tokens, and the mask: letters, and rhyme groups (of their level readings).
LETTERS = (P, P, P, E, E, Z, Z, W)
GROUPS = tuple(map(frozenset, ("a", "ab", "b", "a", "bc", "", "", "", "")))
MASK = len(LETTERS)
WRITABLE = torch.arange(MASK + 1) < MASK
TINY: dict[str, dict] = {
    "one sequence": {"sequences": [[["pz"], ["zp"]]]},
    "two sequences": {"sequences": [[["pz"], ["zp"]], [["zp"], ["·p"]]]},
    "licensed": {"sequences": [[["pz", "zp"], ["·p"]], [["zz"], ["zp", "pp"]]]},
    "rhyme": {"groups": GROUPS, "words": (1, 3)},
    "rhyme, words may repeat": {"groups": GROUPS, "words": (1, 3), "distinct": False},
    "tones and rhyme": {
        "sequences": [[["·p"], ["zp"]], [["z·", "pp"], ["·p"]]],
        "groups": GROUPS,
        "words": (3,),
    },
    "first line": {
        "sequences": [[["·z"], ["zp"]], [["·p"], ["zp"]], [["pp"], ["pp"]]],
        "groups": GROUPS,
        "words": (3,),
        "first": 1,
        "rhyming_first": [False, True, True],
    },
}


def meets(letter: int, mark: str) -> bool:
    return mark == "·" or letter == E or letter == (P if mark == "p" else Z)


def belongs(text: Sequence[int], told: dict, given: Sequence[bool]) -> bool:
    """Membership, from the definition; a given token without a reading fits anything."""
    letters = [LETTERS[k] for k in text]
    words = told.get("words", ())
    first, rhyming = told.get("first"), told.get("rhyming_first", ())

    def rhymes(places: Sequence[int]) -> bool:
        asked = [i for i in places if not (given[i] and letters[i] == W)]
        if told.get("distinct", True) and len({text[i] for i in asked}) < len(asked):
            return False
        return not asked or bool(frozenset.intersection(*(GROUPS[text[i]] for i in asked)))

    for s, sequence in enumerate(told.get("sequences", [[["··"], ["··"]]])):
        kept = all(
            any(
                all(
                    meets(letters[2 * k + j], mark) or (letters[2 * k + j] == W and given[2 * k + j])
                    for j, mark in enumerate(pattern)
                    if 2 * k + j not in words and 2 * k + j != first
                )
                for pattern in line
            )
            for k, line in enumerate(sequence)
        )
        if not kept:
            continue
        if first is None:
            if rhymes(words):
                return True
        elif rhyming[s]:
            if rhymes((*words, first)):
                return True
        elif rhymes(words) and (letters[first] in (Z, E) or (letters[first] == W and given[first])):
            return True
    return False


def texts() -> Tensor:
    return torch.tensor(list(itertools.product(range(MASK), repeat=4)))


def tiny(told: dict) -> Law:
    return law(2, 2, letters=(*LETTERS, W), unread=MASK, writable=WRITABLE, **told)


def product(seed: int, sharp: float = 2.0) -> Tensor:
    return Rng([seed]).normal(4, MASK + 1)[0].index_fill(-1, torch.tensor([MASK]), -torch.inf) * sharp


def brute(logits: Tensor, told: dict, x: Sequence[int]) -> Tensor:
    """q_C over all texts that agree with x where it is not the mask."""
    given = [k != MASK for k in x]
    everything = texts()
    q = torch.zeros(len(everything), dtype=torch.float64)
    p = logits.index_fill(-1, torch.tensor([7]), -torch.inf).softmax(-1)
    for k, text in enumerate(everything.tolist()):
        if all(not g or text[i] == x[i] for i, g in enumerate(given)) and belongs(text, told, given):
            if any(LETTERS[v] == W and not g for v, g in zip(text, given, strict=True)):
                continue
            q[k] = torch.stack([p[i, v] for i, v in enumerate(text) if not given[i]] or [torch.tensor(1.0)]).prod()
    return q


STATES = [
    (MASK,) * 4,
    (0, MASK, MASK, MASK),
    (MASK, 3, MASK, MASK),
    (MASK, 4, MASK, MASK),
    (5, MASK, MASK, 0),
    (7, 1, MASK, MASK),
]


@pytest.mark.parametrize("x", STATES)
@pytest.mark.parametrize("name", TINY)
def test_a_joint_draw_has_the_law_of_the_product_restricted_to_the_set(name: str, x: tuple[int, ...]) -> None:
    told, logits = TINY[name], product(3)
    expected = brute(logits, told, x)
    if not expected.any():
        pytest.skip("no such text")
    x_t = torch.tensor([x])
    prediction = predict(tiny(told), logits, x_t)

    def f(items: Tensor, rng: Rng) -> Tensor:
        rows = prediction_rows(tiny(told), logits, x_t.expand(len(items), -1))
        return (rows.draw(rng=rng) * 8 ** torch.arange(3, -1, -1)).sum(-1)

    _, outcome, weight = enumerate_draws(f, torch.zeros(1, dtype=torch.long), 4)
    law_ = torch.zeros_like(expected).index_add_(0, outcome, weight)
    assert (law_ - expected / expected.sum()).abs().sum() < 1e-9
    assert prediction.log_mass().item() == pytest.approx(expected.sum().log().item(), abs=1e-9)


def prediction_rows(set_: Law, logits: Tensor, x_t: Tensor, at: Tensor | None = None) -> Restricted:
    def predictor(x, t, *, at=None, condition=None, previous=None):
        rows, positions = at
        return Categorical(lambda index: logits[positions[index]], at, x)

    where = (x_t == MASK) if at is None else at
    rows, positions = where.nonzero(as_tuple=True)
    prediction = constrained(predictor, set_, weigh=True)(x_t, torch.ones(x_t.shape), at=(rows, positions))
    return prediction.pin(x_t, x_t != MASK)


def predict(set_: Law, logits: Tensor, x_t: Tensor) -> Restricted:
    return prediction_rows(set_, logits, x_t)


@pytest.mark.parametrize("x", STATES)
@pytest.mark.parametrize("name", TINY)
def test_one_position_is_drawn_from_its_margin_and_weighed_by_what_is_left(name: str, x: tuple[int, ...]) -> None:
    told, logits = TINY[name], product(4)
    expected = brute(logits, told, x)
    if not expected.any():
        pytest.skip("no such text")
    for i in [k for k in range(4) if x[k] == MASK]:
        margin = torch.zeros(8, dtype=torch.float64).index_add_(0, texts()[:, i], expected / expected.sum())
        x_t = torch.tensor([x])
        at = torch.arange(4)[None] == i

        def f(items: Tensor, rng: Rng, i: int = i, x_t: Tensor = x_t, at: Tensor = at) -> Tensor:
            rows = x_t.expand(len(items), -1)
            return prediction_rows(tiny(told), logits, rows, at.expand(len(items), -1)).draw(rng=rng)[:, i]

        _, outcome, weight = enumerate_draws(f, torch.zeros(1, dtype=torch.long), 4)
        found = torch.zeros(8, dtype=torch.float64).index_add_(0, outcome, weight)
        assert (found - margin).abs().sum() < 1e-9, f"position {i}"
        for v in range(8):
            if margin[v] > 1e-9:
                after = x_t.clone()
                after[0, i] = v
                told_weight = prediction_rows(tiny(told), logits, x_t, at).log_weight(after).item()
                assert told_weight == pytest.approx((logits[i, :7].softmax(-1)[v] / margin[v]).log().item(), abs=1e-8)
