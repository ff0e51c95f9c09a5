"""Draws that match an expression against brute force: Python's `re` judges every text of a small space."""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest
import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.processes.mask import Mask
from textdiff.samplers.ancestral import improved
from textdiff.shaping.match.automaton import Spelling, automaton, tokens_in
from textdiff.shaping.match.expression import parse
from textdiff.shaping.match.matched import Accepted, matching
from textdiff.shaping.match.trellis import Layout, Place, Trellis
from textdiff.verify.chains import chain_law
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.spaces import ExactPredictor, Space, total_variation

WORDS = ("a", "b", "ab", "")  # the last is never written
MASK, SIZE, LENGTH = len(WORDS), len(WORDS) + 1, 3
SPELLING = Spelling(((*WORDS, ""), (*(f" {word}" if word else "" for word in WORDS), "")))
PLAIN = Layout(tuple(Place(k, ((0, ""),)) for k in range(LENGTH)))
LINES = Layout((Place(0, ((0, "b"),)), Place(2, ((1, "-"),))), ending="!")  # position 1 is not shown
CASES = {
    "anything": ("[ab]*", PLAIN),
    "one text": ("abaab", PLAIN),
    "ties all places": ("(ab)*a?|b+", PLAIN),
    "ways that overlap": ("(a|ab|b)*b", PLAIN),
    "counts": ("(?:[ab]{2}){2}|a{3}", PLAIN),
    "two forms and text between": ("b(a|b)+- ?(ab|b)!", LINES),
}
TEXTS = torch.tensor(list(itertools.product(range(MASK), repeat=LENGTH)))


def spelt(text: list[int], layout: Layout) -> str | None:
    """A text as it reads; None if a token is not written in it."""
    parts = [(literal, SPELLING.forms[form][text[p]]) for p, ((form, literal),) in layout.places]
    return "".join(a + b for a, b in parts) + layout.ending if all(b for _, b in parts) else None


@cache
def trellis(case: str) -> Trellis:
    expression, layout = CASES[case]
    found = Trellis.of(tokens_in(automaton(parse(expression), SPELLING.alphabet), SPELLING), layout)
    assert found is not None
    return found


@cache
def inside(case: str) -> Tensor:
    """Which of TEXTS match, (n,) bool; what is not shown may be any token but the one that is never written."""
    expression, layout = CASES[case]
    reads = [spelt(text, layout) for text in TEXTS.tolist()]
    fits = torch.tensor([read is not None and bool(re.fullmatch(expression, read)) for read in reads])
    return fits & (WORDS.index("") != TEXTS).all(-1)


def accepted(case: str, rows: int) -> Accepted:
    never = torch.tensor([all(not form[token] for form in SPELLING.forms) for token in range(SIZE)])
    return Accepted.alike(trellis(case), rows, MASK, never)


def product(seed: int) -> Tensor:
    """Independent laws of three positions, (3, V) logits, the mask's −inf."""
    logits = Rng([seed]).normal(LENGTH, SIZE)[0] * 2
    logits[:, MASK] = -torch.inf
    return logits


def predictor_of(logits: Tensor, asked: list[Tensor] | None = None):
    def predict(query: Query) -> Categorical:
        at = query.at if query.at is not None else positions_of(torch.ones_like(query.x_t, dtype=torch.bool))
        if asked is not None:
            asked.append(torch.zeros_like(query.x_t, dtype=torch.bool).index_put(at, torch.tensor(True)))
        return Categorical.from_logits(logits[at[1]], query.x_t, at)

    return predict


STATES = [(MASK,) * 3, (MASK, 1, MASK), (0, MASK, MASK), (MASK, 0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_a_draw_has_the_law_of_the_product_given_that_the_text_matches(case):
    """Also where it is asked for some positions alone, and whatever stands."""
    logits = product(3)
    mass = torch.stack([logits[k].softmax(-1)[TEXTS[:, k]] for k in range(LENGTH)], -1)
    met = 0
    for state in STATES:
        x = torch.tensor([state])
        open_ = x[0] == MASK
        agree = (open_ | (x == TEXTS)).all(-1) & inside(case)
        assert bool(accepted(case, 1).possible(x)[0]) == bool(agree.any())
        if not agree.any():
            continue
        for where in ({k} for k in range(LENGTH) if open_[k]), [{*open_.nonzero()[:, 0].tolist()}]:
            for places in where:
                query = Query(x, torch.ones(1, 3), at=positions_of(torch.tensor([[k in places for k in range(3)]])))
                read: list[Tensor] = []

                def once(items: Tensor, rng: Rng, query: Query = query, read: list[Tensor] = read) -> Tensor:
                    more = Query(query.x_t.expand(len(items), -1), query.t.expand(len(items), -1))
                    at = positions_of(
                        torch.zeros_like(query.x_t).index_put(query.at, torch.tensor(1)).expand(len(items), -1)
                    )
                    prediction = matching(predictor_of(logits, read), accepted(case, len(items)))(
                        Query(more.x_t, more.t, at=at)
                    )
                    return (prediction.draw(rng=rng) * SIZE ** torch.arange(LENGTH)).sum(-1)

                _, outcome, weight = enumerate_draws(once, torch.zeros(1, dtype=torch.long), LENGTH)
                drawn = torch.zeros(SIZE**LENGTH, dtype=torch.float64).index_add_(0, outcome, weight)
                asked = torch.tensor([k in places for k in range(LENGTH)])
                code = (torch.where(asked, TEXTS, x) * SIZE ** torch.arange(LENGTH)).sum(-1)
                share = torch.where(agree, torch.where(open_, mass, 1.0).prod(-1), 0.0)
                aim = torch.zeros_like(drawn).index_add_(0, code, share / share.sum())
                assert total_variation(drawn, aim) < 1e-9
                met += 1
    assert met >= 3


@pytest.mark.parametrize("case", CASES)
def test_weighed_chains_of_single_positions_follow_the_law_given_that_the_text_matches(case):
    space = Space.random(LENGTH, MASK, seed=5)
    exact = ExactPredictor(space, Mask(MASK))
    start = torch.zeros_like(space.p0).index_put(
        (space.code(torch.full((1, LENGTH), MASK)),), torch.tensor(1.0).double()
    )
    predictor = lambda query: matching(exact, accepted(case, len(query.x_t)), weigh=True)(query)  # noqa: E731
    law, _ = chain_law(space, Mask(MASK), improved(), [2 / 3, 1 / 3, 0.0], predictor, start, weighed=True)
    aim = torch.zeros_like(law).index_put((space.code(TEXTS),), inside(case).double()) * space.p0
    assert total_variation(law / law.sum(), aim / aim.sum()) < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_at_temperature_0_the_likeliest_text_that_matches_is_taken(case):
    for seed in range(8):
        logits = product(seed)
        mass = torch.stack([logits[k][TEXTS[:, k]] for k in range(LENGTH)], -1).sum(-1)
        best = TEXTS[torch.where(inside(case), mass, -torch.inf).argmax()]
        x = torch.full((1, LENGTH), MASK)
        drawn = matching(predictor_of(logits), accepted(case, 1), best=True)(Query(x, torch.ones(1, 3))).draw(
            rng=Rng([0])
        )
        assert torch.equal(drawn[0], best)


def test_a_token_that_the_prediction_excludes_is_written_where_nothing_else_matches():
    logits = torch.full((LENGTH, SIZE), -torch.inf).index_put(
        (torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1])), torch.tensor(0.0)
    )
    x = torch.full((4, LENGTH), MASK)
    for best in (False, True):
        predictor = matching(predictor_of(logits), accepted("one text", 4), best=best)
        drawn = predictor(Query(x, torch.ones(4, 3))).draw(rng=Rng(range(4)))
        assert {"".join(WORDS[token] for token in text) for text in drawn.tolist()} == {"abaab"}


def test_what_no_draw_depends_on_is_not_read():
    """Behind a place where all ways meet, the others do not matter."""
    machine = automaton(parse("(aa|bb)(a|b)b"), SPELLING.alphabet)
    layout = Layout(tuple(Place(k, ((0, ""),)) for k in range(4)))
    found = Trellis.of(tokens_in(machine, SPELLING), layout)
    texts = Accepted.alike(found, 1, MASK, torch.zeros(SIZE, dtype=torch.bool))
    x = torch.full((1, 4), MASK)
    for asked, read in ((0, [0, 1]), (1, [0, 1]), (2, [2]), (3, [3])):
        where = torch.arange(4)[None] == asked
        assert texts.coupled(x, where)[0].nonzero()[:, 0].tolist() == read
    x[0, 0] = 1
    assert texts.coupled(x, torch.arange(4)[None] == 1)[0].nonzero()[:, 0].tolist() == [1]


def test_rows_of_several_trellises_are_drawn_as_each_alone():
    logits, pair = product(1), [trellis("ties all places"), trellis("counts")]
    of_row = torch.tensor([0, 1, 1, 0])
    texts = Accepted(tuple(pair), of_row, MASK, accepted("counts", 1).never)
    x = torch.full((4, LENGTH), MASK)
    whole = matching(predictor_of(logits), texts)(Query(x, torch.ones(4, 3))).draw(rng=Rng(range(4)))
    for row, k in enumerate(of_row.tolist()):
        one = Accepted((pair[k],), torch.zeros(1, dtype=torch.long), MASK, texts.never)
        alone = matching(predictor_of(logits), one)(Query(x[:1], torch.ones(1, 3))).draw(rng=Rng([row]))
        assert torch.equal(whole[row], alone[0])


def test_an_expression_that_no_text_of_the_layout_matches_has_no_trellis():
    for expression in ("a{7}", "a", "c.*"):
        assert Trellis.of(tokens_in(automaton(parse(expression), SPELLING.alphabet), SPELLING), PLAIN) is None


def test_a_token_that_may_not_stand_at_a_position_is_in_no_class_of_use_there():
    tokens = tokens_in(automaton(parse("[ab]{3}"), SPELLING.alphabet), SPELLING)
    allowed = torch.ones(LENGTH, SIZE, dtype=torch.bool)
    allowed[1, 0] = False
    found = Trellis.of(tokens, PLAIN, allowed)
    assert [of[0].item() == 0 for of in found.classes] == [False, True, False]
    allowed[1, 1] = False
    assert Trellis.of(tokens, PLAIN, allowed) is None
