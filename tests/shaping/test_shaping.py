"""Predictors that are made of predictors: nucleus, bans, temperature, allowed sets; and float32 products."""

from __future__ import annotations

import pytest
import torch
from families import assert_near

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.networks import fast_float32
from textdiff.shaping.shared import shared
from textdiff.shaping.tokens import allowed, banned, nucleus, tempered, top_k

PROBABILITIES = torch.tensor([0.4, 0.3, 0.2, 0.1])


def table(query):
    """The same law everywhere."""
    x_t, at = query.x_t, query.at
    at = positions_of(torch.ones_like(x_t, dtype=torch.bool)) if at is None else at
    return Categorical.from_logits(PROBABILITIES.log().repeat(len(at[0]), 1), x_t, at)


def law(predictor, position=0):
    x = torch.zeros(1, 2, dtype=torch.long)
    return predictor(Query(x, torch.ones(1, 2))).logits()[position].softmax(-1)


@pytest.mark.parametrize("p, kept", [(1e-9, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.999, 4), (1.0, 4)])
def test_the_nucleus_keeps_the_token_that_crosses_and_is_never_empty(p, kept):
    expected = torch.where(torch.arange(4) < kept, PROBABILITIES, 0)
    assert_near(law(nucleus(table, p)), expected / expected.sum())


def test_bans_come_before_the_nucleus():
    assert_near(law(nucleus(banned(table, [0]), 0.45)), torch.tensor([0, 1, 0, 0.0]))
    assert_near(law(nucleus(banned(table, torch.tensor([0])), 0.55)), torch.tensor([0, 0.6, 0.4, 0]))
    assert_near(law(banned(table, [])), PROBABILITIES)


def test_temperature_scales_logits_and_at_zero_gives_the_mode():
    assert_near(law(tempered(table, 0.5)), PROBABILITIES**2 / (PROBABILITIES**2).sum())
    assert_near(law(tempered(table, 0)), torch.tensor([1.0, 0, 0, 0]))
    assert_near(law(nucleus(tempered(banned(table, [0]), 0), 0.9)), torch.tensor([0, 1.0, 0, 0]))
    assert_near(law(tempered(table, 1)), PROBABILITIES)


def test_top_k_and_allowed_sets():
    assert_near(law(top_k(table, 2)), torch.tensor([4 / 7, 3 / 7, 0, 0]))
    assert_near(law(top_k(table, 9)), PROBABILITIES)
    sets = torch.tensor([[True, False, True, False], [False, False, False, True]])
    assert_near(law(allowed(table, sets)), torch.tensor([2 / 3, 0, 1 / 3, 0]))
    assert_near(law(allowed(table, sets), 1), torch.tensor([0, 0, 0, 1.0]))
    assert_near(law(allowed(table, lambda rows, positions: sets[positions]), 1), torch.tensor([0, 0, 0, 1.0]))


def test_impossible_shapes_are_refused_at_the_door():
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature is"):
            tempered(table, wrong)
    for wrong in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="top_p is"):
            nucleus(table, wrong)
    with pytest.raises(ValueError, match="top_k is 0"):
        top_k(table, 0)
    with pytest.raises(ValueError, match="no token is allowed at position 1"):
        allowed(table, torch.tensor([[True], [False]]))


def test_wrappers_hand_on_what_is_asked():
    seen = []

    def spy(query):
        seen.append(query)
        return table(query)

    x = torch.zeros(1, 2, dtype=torch.long)
    at = (torch.tensor([0]), torch.tensor([1]))
    query = Query(x, torch.ones(1, 2), at=at, condition="c", previous=x)
    prediction = nucleus(tempered(spy, 0.7), 0.9)(query)
    assert seen == [query] and len(prediction.logits()) == 1


def test_products_in_the_block_are_float32_and_the_setting_comes_back():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    a, b = torch.randn(64, 384), torch.randn(128, 384)
    with pytest.raises(KeyError), fast_float32.fast_float32() as on:
        assert on == fast_float32.chosen() and fast_float32.is_float32(a, b)
        raise KeyError
    assert setting.fp32_precision == before and fast_float32.is_float32(a, b)


def test_a_product_in_bfloat16_is_not_taken_for_float32():
    a, b = torch.randn(64, 384), torch.randn(128, 384)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fast_float32.is_float32(a, b)


def test_equal_questions_of_a_batch_are_asked_once_and_answered_as_each_alone():
    asked = []

    def counting(query):
        asked.append(len(query.x_t))
        rows, places = query.at
        logits = query.x_t.double().cumsum(1)[rows, places] + query.condition[rows, 0]
        return Categorical.from_logits(torch.outer(logits, torch.arange(4.0)), query.x_t, query.at)

    x = torch.tensor([[3, 1, 2], [0, 1, 2], [3, 1, 2], [3, 1, 2], [3, 1, 2]])
    told = torch.tensor([[5], [5], [5], [5], [6]])
    where = torch.tensor([[1, 0, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1], [1, 0, 1]]).bool()
    query = Query(x, where.double(), at=positions_of(where), condition=told)
    once = shared(counting)(query)
    assert asked == [4]
    assert_near(once.logits(), counting(query).logits())
    assert_near(once.select(where & (told == 6)).logits(), counting(query).logits()[-2:])
    assert all(torch.equal(a, b) for a, b in zip(once.at, query.at, strict=True))
