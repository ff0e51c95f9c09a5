"""The log-weights of constrained draws, by enumeration: with them the chain has the law p(x0 | C), whatever is never written."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from textdiff.core.contracts import Query, State
from textdiff.core.levels import count_levels
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.processes.mask import Mask
from textdiff.samplers.ancestral import improved
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.spaces import ExactPredictor, Space
from textdiff.verse.constrained import constrained
from textdiff.verse.law import E, Law, P, W, Z

LETTERS = (P, Z, E, W, P)  # the last but one has no reading, and is never written
FREE, MASK = 3, len(LETTERS)  # a text has three positions


@cache
def world() -> tuple[Space, ExactPredictor]:
    space = Space.random(FREE, MASK, seed=3)
    return space, ExactPredictor(space, Mask(MASK))


def patterned(**more: object) -> Law:
    writable = torch.arange(MASK + 1) < MASK
    return Law.of(1, FREE, letters=(*LETTERS, W), unread=MASK, writable=writable, sequences=[[["pzp", "zpp"]]], **more)


def inside(text: list[int], no_repeat: bool) -> bool:
    letters = [LETTERS[v] for v in text]
    fits = any(all(a in (E, b) for a, b in zip(letters, marks, strict=True)) for marks in ((P, Z, P), (Z, P, P)))
    return fits and (not no_repeat or len(set(text)) == len(text))


def weighted_law(set_: Law) -> Tensor:
    """Over codes: the probability of each text of a one-at-a-time chain times its weight, every path summed."""
    space, exact = world()
    step, predictor = improved(), constrained(exact, set_, weigh=True)
    law_ = torch.zeros(len(space.p0), dtype=torch.float64)
    law_[space.code(torch.full((1, FREE), MASK))] = 1.0
    before = torch.tensor(1.0, dtype=torch.float64)
    for level in count_levels(torch.tensor([FREE])):
        items, logs = (law_ > 0).nonzero()[:, 0], []

        def f(codes: Tensor, rng: Rng, s: Tensor = level, t: Tensor = before, logs: list[Tensor] = logs) -> Tensor:
            x = space.decode(codes)
            free = torch.ones_like(x, dtype=torch.bool)
            none = torch.zeros(len(x), dtype=torch.long)
            state = State(x, t.expand(x.shape), x, free, None, x, none, none.double())
            after = step(state, s.expand(x.shape), predictor=predictor, process=Mask(MASK), rng=rng)
            logs.append(after.log_weight)
            return space.code(after.x)

        index, outcome, weight = enumerate_draws(f, items, FREE)
        weight = weight * law_[items[index]] * torch.cat(logs).exp()
        law_, before = torch.zeros_like(law_).index_add_(0, outcome, weight), level
    return law_


def test_the_weighted_chain_has_the_conditioned_law_where_some_tokens_are_never_written():
    space, _ = world()
    texts = space.decode(torch.arange(len(space.p0)))
    member = torch.tensor([MASK not in text and inside(text, False) for text in texts.tolist()])
    aim = space.p0 * member
    found = weighted_law(patterned())
    assert (found - aim).abs().max() < 1e-9, "not even a constant is missing"


def test_tokens_that_are_all_but_excluded_are_written_where_nothing_else_fits_the_likelier_ones_more():
    logits = torch.tensor(
        [-5000.0, 0.0, -9000.0, 0.0, -9000.0, -torch.inf]
    )  # the network wants oblique tokens everywhere
    x = torch.full((200, FREE), MASK)
    at = positions_of(torch.ones_like(x, dtype=torch.bool))

    def predictor(query: Query) -> Categorical:
        return Categorical(lambda index: logits.expand(len(index), -1), query.at, query.x_t)

    drawn = constrained(predictor, patterned())(Query(x, torch.ones(x.shape), at=at)).draw(rng=Rng(range(200)))
    assert all(inside(text, False) for text in drawn.tolist())
    assert (drawn == 0).sum() > 3 * (drawn == 4).sum()
