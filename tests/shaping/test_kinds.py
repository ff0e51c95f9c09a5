"""Positions whose laws are known to be equal: they are, and what is worked out once for them changes no draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.shaping.tokens import allowed, banned, guided, nucleus, tempered, top_k
from textdiff.verse.constrained import RestrictedPrediction
from textdiff.verse.law import Law as TonalLaw
from textdiff.verse.law import P, Z

ALIKE = {
    "as it is": lambda predictor: predictor,
    "tempered": lambda predictor: tempered(predictor, 0.7),
    "coldest": lambda predictor: tempered(predictor, 0.0),
    "nucleus": lambda predictor: nucleus(predictor, 0.9),
    "top_k": lambda predictor: top_k(predictor, 5),
    "banned": lambda predictor: banned(predictor, [20, 21]),
}


@pytest.fixture(scope="module")
def model():
    return tiny.ordered_model()


def query(model) -> Query:
    """Three rows of 20 places: all open, the first four written, every other one given."""
    x = torch.full((3, 20), model.mask_id)
    x[1, :4] = x[2, ::2] = next(k for k in model.content.tolist() if k % 2)
    t = torch.ones(3, 20).double()
    t[2, ::2] = 0.0
    return Query(x, t, at=positions_of((x == model.mask_id) & (t > 0)))


def writer(model):
    return model.predictor("ascending")


@pytest.mark.parametrize("name", ALIKE)
def test_positions_of_one_kind_have_one_law(model, name):
    law = ALIKE[name](writer(model))(query(model)).by_token()
    logits = law.logits()
    assert law.kind is not None and len(law.kind.unique()) == 4, (
        "what nothing was read for, and the next place of each row"
    )
    for kind in law.kind.unique():
        same = logits[law.kind == kind]
        assert same.equal(same[:1].expand_as(same))
    first, which = law.kinds()
    assert logits[first[which]].equal(logits) and len(first) == 4
    part = law.select(torch.arange(20).expand(3, -1) % 3 == 1)
    first, which = part.kinds()
    assert part.logits()[first[which]].equal(part.logits()) and len(first) < len(which)


def test_nothing_is_known_of_laws_that_hang_on_the_position_or_on_a_condition(model):
    table = torch.ones(20, len(model.tokenizer), dtype=torch.bool)
    told = replace(query(model), condition=model.condition(3))
    for predictor in (allowed(writer(model), table), guided(writer(model), 1.5, lambda condition: condition)):
        law = predictor(told).by_token()
        first, which = law.kinds()
        assert law.kind is None and first.equal(which) and len(first) == len(law.at[0])


@torch.inference_mode()
def test_a_strict_draw_is_the_same_where_equal_laws_are_worked_out_once(model):
    asked = query(model)
    base = tempered(writer(model), 0.9)(asked).by_token()
    letters = [P if k % 2 else Z for k in range(len(model.tokenizer))]
    writable = torch.zeros(len(letters), dtype=torch.bool).index_fill(0, model.content, True)
    groups = [frozenset("ab"[k % 4 // 2]) for k in range(len(letters))]
    law = TonalLaw.of(
        4, 5, letters=letters, unread=model.mask_id, writable=writable, groups=groups, words=(9, 19),
        sequences=[[["zzppz", "ppzzp", "zzzzz", "ppppp"]] * 4],
    )  # fmt: skip
    drawn = []
    for one in (base, Categorical(base.read, base.at, base.known)):
        strict = RestrictedPrediction(one, law, asked.x_t == model.mask_id, one.known, weigh=True)
        assert len(strict.laws[0]) == (4 if one is base else len(one.at[0]))
        x = strict.draw(rng=Rng([3, 4, 5]))
        drawn.append((x, strict.log_weight(x)))
    assert drawn[0][0].equal(drawn[1][0]) and drawn[0][1].equal(drawn[1][1])
