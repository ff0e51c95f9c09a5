"""Dropout that is keyed by the example: what a row draws does not depend on those beside it, nor on how a step is cut."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tiny
import torch
from runs import assert_same_step, micro_batches, one_step
from torch.nn import functional

from textdiff.networks.dropout.keyed import KeyedDropout
from textdiff.networks.folder import TextModel
from textdiff.training.devices.recompute import recompute
from textdiff.training.loss import Denoiser


def dropping(model: TextModel, rate: float, attention: str) -> TextModel:
    """The model whose network drops at this rate, everywhere that it can."""
    network: Any = model.model
    network.set_attn_implementation(attention)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
    network.train()
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("process", "made"), [("mask", tiny.poem_model), ("ascending", tiny.ordered_model)])
def test_pieces_with_dropout_add_up_to_the_whole_step(process: str, made: Any, attention: str) -> None:
    """Titles of different lengths, so that pieces leave out different columns."""
    model = dropping(made(), 0.3, attention)
    denoiser = Denoiser(model)
    whole = micro_batches(
        28, 28, model, processes={process: model.process(process)}, shares={process: 1.0}, conditions={"title": 1.0}
    )
    found = one_step(denoiser, whole)
    assert_same_step(found, one_step(denoiser, dataclasses.replace(whole, pieces=14)))
    model.model.eval()
    assert denoiser(**whole[0]).item() != pytest.approx(found[0], rel=1e-4)  # something was dropped


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(("process", "made"), [("mask", tiny.poem_model), ("ascending", tiny.ordered_model)])
def test_layers_that_are_computed_twice_give_the_same_loss_and_gradient(process: str, made: Any, rate: float) -> None:
    """With titles of different lengths, and dropout in attention, too."""
    model = dropping(made(), rate, "sdpa")
    denoiser = Denoiser(model)
    batches = micro_batches(
        12,
        28,
        model,
        batch=12,
        processes={process: model.process(process)},
        shares={process: 1.0},
        conditions={"title": 1.0},
    )
    calls: list[int] = []
    layer: Any = model.model.get_submodule("bert.encoder.layer.1.intermediate")
    layer.register_forward_hook(lambda *about: calls.append(1))
    found = one_step(denoiser, batches)
    assert len(calls) == 1
    recompute(denoiser)
    assert_same_step(found, one_step(denoiser, batches))
    assert len(calls) == 3


def test_each_call_drops_its_share_anew_and_for_each_row_by_its_seed() -> None:
    x = torch.ones(3, 200, 50)
    with KeyedDropout([5, 6, 5]):
        first, second = functional.dropout(x, 0.2), functional.dropout(x, 0.2)
        whole = functional.dropout(x, 0.2, training=False)
    assert first.mean().item() == pytest.approx(1.0, abs=4 * (0.25 / x.numel()) ** 0.5)
    assert set(first.unique().tolist()) == {0.0, 1.25} and whole.equal(x)
    assert first[0].equal(first[2]) and not first[0].equal(first[1]) and not first.equal(second)


def test_attention_that_drops_nothing_is_that_of_torch() -> None:
    query, key, value = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    seen = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    for mask in (None, seen, torch.zeros(2, 1, 5, 5).masked_fill(~seen, -1e9)):
        with KeyedDropout([0, 1]):
            ours = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=1e-12, scale=0.3
            )
        torch.testing.assert_close(
            ours, functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
        )
