"""No token twice, where tokens are few: every chain ends with a text of the law, and its weight is right."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.levels import count_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.processes.mask import Mask
from textdiff.samplers.ancestral import improved
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verse.constrained import RestrictedPrediction, constrained
from textdiff.verse.forms import Form
from textdiff.verse.law import E, Law, P, W, Z
from textdiff.verse.prosody import check_given, possible

MASK = 9
WRITABLE = torch.arange(MASK + 1) < MASK
GROUPS = tuple(map(frozenset, ("a", "ab", "a", "", "", "", "a", "b", "", "")))
CASES: dict[str, dict[str, Any]] = {
    "tones": {"letters": (P, P, P, E, Z, Z, E, Z, W), "sequences": [[["pz"], ["zp"]], [["zp"], ["pz"]]]},
    "two patterns a line": {"letters": (P, P, Z, Z, E, Z, Z, Z, W), "sequences": [[["pz", "zz"], ["·p", "z·"]]]},
    "just enough": {"letters": (P, Z, E, E, W, W, W, W, W), "sequences": [[["pz"], ["zp"]]]},
    "rhyme": {"letters": (P, P, P, Z, Z, Z, E, E, W), "groups": GROUPS, "words": (1, 3)},
    "first line": {
        "letters": (P, P, P, Z, Z, Z, E, E, W),
        "groups": GROUPS,
        "words": (3,),
        "first": 1,
        "sequences": [[["zz"], ["pp"]], [["zp"], ["zp"]]],
        "rhyming_first": (False, True),
    },
}


CASES["oblique end"] = {
    "letters": (
        P,
        P,
        P,
        Z,
        W,
        W,
        E,
        W,
        W,
    ),  # where the rhyme word takes the E, one oblique token is left for two positions
    "groups": GROUPS,
    "words": (3,),
    "first": 1,
    "sequences": [[["zz"], ["pp"]], [["zp"], ["zp"]]],
    "rhyming_first": (False, True),
}


def law_of(name: str) -> Law:
    case = CASES[name]
    letters = (*case["letters"], W)
    return Law.of(2, 2, **case | {"letters": letters}, unread=MASK, writable=WRITABLE, no_repeat=True)


def meets(letter: int, mark: str) -> bool:
    return mark == "·" or letter == E or letter == (P if mark == "p" else Z)


@cache
def members(name: str) -> frozenset[tuple[int, ...]]:
    """The texts of a law, from its definition."""
    case = CASES[name]
    words, first = case.get("words", ()), case.get("first")
    rhyming = case.get("rhyming_first", (False,) * 4)
    found = set()
    for text in itertools.permutations([k for k, letter in enumerate(case["letters"]) if letter != W], 4):
        letters = [case["letters"][k] for k in text]
        for s, (upper, lower) in enumerate(case.get("sequences", [[["··"], ["··"]]])):
            ends = (*words, first) if rhyming[s] else words
            tones = any(
                all(
                    meets(letter, m) for i, (letter, m) in enumerate(zip(letters, a + b, strict=True)) if i not in words
                )
                for a in upper
                for b in lower
            )
            groups = [GROUPS[text[i]] & large(name) for i in ends]
            if tones and (not groups or frozenset.intersection(*groups)):
                found.add(text)
    return frozenset(found)


def large(name: str) -> frozenset[str]:
    """The rhyme groups that have a token for each position of the text."""
    tokens = [k for k, letter in enumerate(CASES[name]["letters"]) if letter != W]
    return frozenset(g for g in "ab" if sum(g in GROUPS[k] for k in tokens) >= 4)


def predictor(query: Query) -> Categorical:
    """Another law for each position, the same whatever stands elsewhere."""
    at = query.at if query.at is not None else positions_of(torch.ones_like(query.x_t, dtype=torch.bool))
    logits = Rng([5]).normal(4, MASK + 1)[0].index_fill(-1, torch.tensor([MASK]), -torch.inf)
    return Categorical(lambda index: logits[at[1][index]], at, query.x_t)


def prediction(name: str, x: Tensor, asked: Tensor) -> RestrictedPrediction:
    at = asked.nonzero(as_tuple=True)
    whole = constrained(predictor, law_of(name), weigh=True)(Query(x, torch.ones(x.shape), at=at))
    return whole.pin(x, x != MASK)


@pytest.mark.parametrize("name", CASES)
def test_what_can_be_completed_is_known_exactly(name: str) -> None:
    tokens = [k for k, letter in enumerate(CASES[name]["letters"]) if letter != W]
    partial = [x for x in itertools.product([*tokens, MASK], repeat=4) if x[0] in (0, 3, 7, MASK)]
    law, texts = law_of(name), members(name)
    assert texts and not law.ample
    parts = {tuple(v if keep else MASK for v, keep in zip(text, kept, strict=True)) for text in texts for kept in KEPT}
    assert law.completable(torch.tensor(partial)).tolist() == [x in parts for x in partial]


KEPT = list(itertools.product([False, True], repeat=4))


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("tones", (MASK, MASK, 6, 1)),
        ("two patterns a line", (MASK, 4, MASK, MASK)),
        ("rhyme", (MASK, 1, MASK, 6)),
        ("first line", (MASK, MASK, MASK, 1)),
    ],
)
def test_a_draw_times_its_weight_is_the_product(name: str, x: tuple[int, ...]) -> None:
    """However many positions a step writes: every outcome, and Π q_i over them = probability · weight."""
    law, x_t = law_of(name), torch.tensor([x])
    q = predictor(Query(x_t, torch.ones(x_t.shape))).logits().double().softmax(-1)
    for asked in (x_t == MASK, (x_t == MASK) & (torch.arange(4) != 2)):
        drawn: list[Tensor] = []

        def f(items: Tensor, rng: Rng, asked: Tensor = asked, drawn: list[Tensor] = drawn) -> Tensor:
            rows = x_t.expand(len(items), -1)
            part = prediction(name, rows, asked.expand(len(items), -1))
            text = part.draw(rng=rng)
            drawn.append(part.log_weight(text))
            return (text * (MASK + 1) ** torch.arange(3, -1, -1)).sum(-1)

        _, code, chance = enumerate_draws(f, torch.zeros(1, dtype=torch.long), 4)
        texts = code[:, None] // (MASK + 1) ** torch.arange(3, -1, -1) % (MASK + 1)
        assert law.completable(texts).all()
        wanted = torch.where(asked, q[torch.arange(4), texts], 1.0).prod(-1)
        total = torch.zeros((MASK + 1) ** 4, dtype=torch.float64).index_add(0, code, chance * torch.cat(drawn).exp())
        assert torch.allclose(total[code], wanted, rtol=1e-9)
        everyone = {
            tuple(v if k else m for v, k, m in zip(t, asked[0], x, strict=True)) for t in members(name) if agrees(t, x)
        }
        assert set(map(tuple, texts.tolist())) == everyone, "and every text that can be is drawn"


def agrees(text: tuple[int, ...], x: tuple[int, ...]) -> bool:
    return all(b in (MASK, a) for a, b in zip(text, x, strict=True))


@pytest.mark.parametrize("steps", [None, 2, 1])
@pytest.mark.parametrize("name", CASES)
def test_no_chain_comes_to_a_dead_end(name: str, steps: int | None) -> None:
    given = torch.full((300, 4), MASK)
    free = torch.ones_like(given, dtype=torch.bool)
    parts = {"predictor": constrained(predictor, law_of(name)), "process": Mask(MASK), "rng": Rng(range(300))}
    *_, state = sample(given, free, count_levels(free.sum(-1), steps), improved(), **parts)
    assert {tuple(text) for text in state.x.tolist()} <= members(name)


def test_a_row_does_not_notice_how_many_positions_its_neighbours_write() -> None:
    x = torch.tensor([[MASK] * 4, [MASK, 1, MASK, MASK], [MASK, MASK, MASK, 6]])
    asked = torch.tensor([[True] * 4, [False, False, True, False], [True, False, True, False]])
    together = prediction("rhyme", x, asked).draw(rng=Rng([1, 2, 3]))
    for k in range(3):
        alone = prediction("rhyme", x[k : k + 1], asked[k : k + 1]).draw(rng=Rng([k + 1]))
        assert torch.equal(together[k], alone[0])


def test_what_leaves_no_text_is_refused_at_the_door() -> None:
    form = Form("lines:2x2", "2行2字", 2, 2)
    characters = [*"abcdefghi", "[MASK]"]
    few = Law.of(
        2,
        2,
        letters=(P, P, P, Z, W, W, W, W, W, W),
        sequences=[[["pz"], ["zp"]]],
        unread=MASK,
        writable=WRITABLE,
        no_repeat=True,
    )
    blank = torch.full((4,), MASK)
    assert not possible(few, blank, [])
    with pytest.raises(
        ValueError, match="no text of form 'lines:2x2' keeps what is asked with the model's 4 characters"
    ):
        check_given(few, blank, blank == MASK, form, characters)
    law, ids = law_of("tones"), torch.tensor([MASK, 3, 6, MASK])
    assert possible(law, ids, [1, 2])
    with pytest.raises(ValueError, match=r"'e' \(line 1, character 2; no reading\) does not fit"):
        check_given(law, torch.tensor([5, 4, MASK, MASK]), torch.tensor([False, False, True, True]), form, characters)
