"""A small model of embedded poems, and a noisy state of it."""

from __future__ import annotations

import dataclasses

import torch
from tiny import network, poem_model

from textdiff.networks.folder import TextModel
from textdiff.training.loss import corrupted


def poems(build=network, **more: object) -> TextModel:
    old = poem_model()
    model = build(len(old.tokenizer))
    return dataclasses.replace(old, model=model, processes=("embedding", "mask", "replacement"), **more)


POEMS = poems()
IDS = POEMS.encode(["床前明月光疑是地上霜举头望明月低思故乡白", "白日依山尽黄河入海流欲穷千里目更一层楼春"])


def noisy(model: TextModel, ids: torch.Tensor, level: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.full(ids.shape, level, dtype=torch.float64)
    return corrupted(model.process("embedding"), ids, t, torch.arange(len(ids)) + seed).detach(), t
