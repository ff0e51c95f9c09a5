"""Steps of training that are to be timed: ours, and the one that one would write first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from textdiff.core.rng import Rng
from textdiff.networks.folder import TextModel
from textdiff.networks.lean import products
from textdiff.training.loss import Denoiser
from textdiff.training.optimizer import build
from textdiff.training.sections import Optimizer
from textdiff.training.texts.network import attend_plainly


def steps(make: Callable[[], TextModel], batch: int, length: int) -> dict[str, Callable[[int], object]]:
    """A step with `batch` texts: in float32 with all logits and AdamW; ours with Muon, and in bf16 where a CPU gains by that.

    `make` gives the same model each time.  Reading the data is left out.
    """
    cases: dict[str, Callable[[int], object]] = {}
    for name, recipe, half in (
        ("plain", Optimizer(name="adamw"), False),
        ("textdiff", Optimizer(name="muon"), False),
        ("textdiff bf16", Optimizer(name="muon"), True),
    ):
        if not half or products.bf16_pays():
            text_model = make()
            loss = _all_logits(text_model) if name == "plain" else _ours(text_model, length)
            cases[name] = _step(text_model, loss, recipe, half, batch, length)
    return cases


def _step(
    text_model: TextModel,
    loss: Callable[[Tensor, Tensor], Tensor],
    recipe: Optimizer,
    half: bool,
    batch: int,
    length: int,
) -> Callable[[int], object]:
    network = text_model.model.train()
    optimizer = build(network, recipe, torch.bfloat16 if half else torch.float32)
    x0 = text_model.content[Rng(range(batch)).integers(torch.full((batch, length), len(text_model.content)))]
    levels = ((torch.arange(batch) + 0.5) / batch).double()[:, None].expand(-1, length)

    def run(seed: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            value = loss(x0, levels)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return run


def _all_logits(text_model: TextModel) -> Callable[[Tensor, Tensor], Tensor]:
    network: Any = text_model.model

    def loss(x0: Tensor, t: Tensor) -> Tensor:
        hidden = Rng(range(len(x0))).uniform(x0.shape[1]) < t
        logits = network(input_ids=torch.where(hidden, text_model.mask_id, x0)).logits
        value: Tensor = torch.nn.functional.cross_entropy(logits[hidden], x0[hidden])
        return value

    return loss


def _ours(text_model: TextModel, length: int) -> Callable[[Tensor, Tensor], Tensor]:
    attend_plainly(text_model.model, length)
    denoiser = Denoiser(text_model)

    def loss(x0: Tensor, t: Tensor) -> Tensor:
        about = text_model.condition(len(x0))
        value: Tensor = denoiser(x0, t, torch.arange(len(x0)), about, "mask", x0.numel(), torch.arange(len(x0)))
        return value

    return loss
