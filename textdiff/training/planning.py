"""What a recipe comes to before anything is trained: its network, its batches, what they would cost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from textdiff.core.errors import RecipeError
from textdiff.training.data import PIECE, Group, MicroBatches
from textdiff.training.loss import Denoiser
from textdiff.training.recipe import Recipe
from textdiff.training.trainer import Model

Read = Callable[[Recipe], tuple[Any, list[Group], list[Group]]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a recipe comes to before anything is trained."""

    text_model: Model
    batches: MicroBatches
    held: list[Group]  # with the conditions said
    parameters: int
    texts: int
    tokens: int  # over the whole run, in texts, without prefixes; values, of images
    data: str  # the fingerprint of what is learnt from: what a resumed run must have again


def plan(recipe: Recipe) -> Plan:
    """Data, tokenizer, network and batches of a recipe; AskedError says what is missing."""
    read, known = _reader(recipe)
    text_model, train, validation = read(recipe)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    pieces = recipe.run.accumulation * world
    if recipe.run.batch % pieces:
        raise RecipeError(
            f"run.batch is {recipe.run.batch}, which {pieces} pieces (accumulation × devices) do not divide"
        )
    batches = MicroBatches(
        groups=train,
        processes={name: text_model.process(name) for name in recipe.processes},
        shares=recipe.processes,
        batch=recipe.run.batch,
        pieces=pieces,
        steps=recipe.run.steps,
        seed=recipe.run.seed,
        conditions=recipe.conditions,
        prefix=text_model.prefix,
        pad=text_model.pad_id,
        known=known,
    )
    per_epoch = sum(int(g.free.expand(g.ids.shape[1:]).sum()) * len(g.ids) for g in train)
    tokens = int(per_epoch * recipe.run.steps / batches.steps_per_epoch())
    parameters = sum(p.numel() for p in text_model.model.parameters())
    return Plan(
        text_model, batches, validation, parameters, sum(len(g.ids) for g in train), tokens, _data(text_model, train)
    )


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Parameters, tokens, steps, and time and memory estimated from two optimiser steps of the longest texts."""
    made = plan(recipe)
    longest = max(made.batches.groups, key=lambda g: g.ids.shape[1])
    length, denoiser = longest.ids.shape[1], Denoiser(made.text_model)
    seconds = []
    for index in range(2 * made.batches.pieces):
        inputs = made.batches[index]
        began = time.perf_counter()
        with torch.autocast(inputs["x0"].device.type, dtype=torch.bfloat16, enabled=recipe.run.bf16):
            loss = denoiser(**inputs)
        loss.backward()
        seconds.append((time.perf_counter() - began) / inputs["x0"].numel())
        denoiser.zero_grad()
    averaged = 1 if recipe.optimizer.ema else 0
    config = made.text_model.model.config
    rows = recipe.run.batch // made.batches.pieces * length
    activations = rows * getattr(config, "hidden_size", 512) * getattr(config, "num_hidden_layers", 6) * 34 * 4
    return {
        "parameters": made.parameters,
        "vocabulary": vocabulary(made),
        "texts": made.texts,
        "validation_texts": sum(len(g.ids) for g in made.held),
        "steps": recipe.run.steps,
        "steps_per_epoch": made.batches.steps_per_epoch(),
        "tokens": made.tokens,
        "minutes": round(made.tokens * min(seconds) * 1.1 / 60, 1),
        "memory_mb": round((made.parameters * 4 * (4 + averaged) + activations) / 2**20),
        "out": str(recipe.folder),
    }


def _data(text_model: Model, groups: list[Group]) -> str:
    """A hash of the vocabulary and of every row that is learnt from."""
    hashed = hashlib.sha256()
    tokenizer = text_model.tokenizer
    if tokenizer is not None:
        hashed.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    tables: list[Any] = [table for g in groups for table in (g.ids, g.condition, g.seeds) if table is not None]
    for table in tables:
        step = max(1, PIECE // max(1, table[:1].numel()))
        for first in range(0, len(table), step):
            hashed.update(table[first : first + step].contiguous().numpy())
    return hashed.hexdigest()


def vocabulary(made: Plan) -> int | None:
    """Tokens of the vocabulary; None of images."""
    content = getattr(made.text_model, "content", None)
    return None if content is None else len(content)


def _reader(recipe: Recipe) -> tuple[Read, Callable[[Tensor], Tensor] | None]:
    """What gives (network, what is learnt from, what is held out), and `known` of MicroBatches."""
    from textdiff.training import images, reflow
    from textdiff.training.texts import reading

    if recipe.data.kind == "images":
        return images.read, images.shown(recipe)
    return (reflow.read if recipe.data.kind == "pairs" else reading.read), None
