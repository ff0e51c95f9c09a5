"""What a recipe comes to before anything is trained: its network, its batches, what they would cost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Model
from textdiff.core.errors import RecipeError
from textdiff.core.resolve import attribute
from textdiff.pipeline.plan import check_defaults
from textdiff.training.data import PIECE, Group, MicroBatches, processes
from textdiff.training.loss import Denoiser
from textdiff.training.sections import Recipe
from textdiff.training.trainer import Log, silent

# Where the recipe does not say how many pieces a step has, on a CPU:
COLUMNS = 2048  # tokens of a piece
MOST_PIECES = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a recipe comes to before anything is trained."""

    text_model: Model
    batches: MicroBatches
    validation: list[Group]  # with their conditions
    parameters: int
    trained: int  # of the parameters; all, but with adapters
    texts: int
    tokens: int  # over the whole run, without prefixes; of images, values
    data: str  # the fingerprint of the training data, which a resumed run must have again
    unknown: float | None  # the share of the tokens that the vocabulary does not know; None of images


def plan(recipe: Recipe, log: Log = silent) -> Plan:
    """Data, tokenizer, network and batches of a recipe; AskedError says what is missing."""
    known = attribute(recipe.kind.known)(recipe) if recipe.kind.known else None
    text_model, train, validation, unknown = attribute(recipe.kind.read)(recipe, log)
    try:
        check_defaults(text_model)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"defaults: {error}") from error
    batches = MicroBatches(
        groups=train,
        processes={name: text_model.process(name) for name in recipe.processes},
        shares=recipe.processes,
        batch=recipe.run.batch,
        pieces=pieces_of(recipe, train),
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
    trained = sum(p.numel() for p in text_model.model.parameters() if p.requires_grad)
    texts = sum(len(g.ids) for g in train)
    made = Plan(text_model, batches, validation, parameters, trained, texts, tokens, _data(text_model, train), unknown)
    _check_room(recipe, made)
    _check_network(made)
    return made


def pieces_of(recipe: Recipe, groups: list[Group]) -> int:
    """The number of pieces that a step is cut into, over all processes.

    Where run.accumulation leaves it open, a piece of texts on a CPU has at most `COLUMNS` tokens, if the batch can be divided so into
    no more than `MOST_PIECES`: the hidden states of more fall out of the caches, and a step takes a third longer on some machines.
    """
    batch, world = recipe.run.batch, processes()
    pieces = world * (recipe.run.accumulation or 1)
    if batch % pieces:
        raise RecipeError(f"run.batch is {batch}, which {pieces} pieces (accumulation × devices) do not divide")
    longest = max(g.ids.shape[1] for g in groups)
    if recipe.run.accumulation is None and len(groups[0].ids.shape) == 2 and not torch.cuda.is_available():
        able = [n for n in range(world, min(batch, MOST_PIECES * world) + 1, world) if batch % n == 0]
        return next((n for n in able if batch // n * longest <= COLUMNS), able[-1])
    return pieces


def _check_room(recipe: Recipe, made: Plan) -> None:
    """RecipeError where a step cannot fit into this machine's memory."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        return
    needed = _step_bytes(recipe, made)
    if needed > 2 * machine and not torch.cuda.is_available():
        raise RecipeError(
            f"a step of run.batch={recipe.run.batch} takes about {needed / 1e9:.0f} GB, and this machine has "
            f"{machine / 1e9:.0f}; lower run.batch, or raise run.accumulation"
        )


def _check_network(made: Plan) -> None:
    """RecipeError where the network cannot read a text of the data."""
    longest = _longest(made)
    first = dataclasses.replace(made.batches, groups=[longest], batch=made.batches.pieces)[0]
    training, denoiser = made.text_model.model.training, Denoiser(made.text_model).eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            denoiser(**first)
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError) as error:
        raise RecipeError(
            f"the network of model.type and model.config cannot read a text of {math.prod(longest.ids.shape[1:])} tokens or "
            f"values ({type(error).__name__}: {' '.join(str(error).split())[:200]}); change model.config"
        ) from error
    finally:
        made.text_model.model.train(training)


def _longest(made: Plan) -> Group:
    return max(made.batches.groups, key=lambda g: g.ids.shape[1])


def dry_run(recipe: Recipe, log: Log = silent) -> dict[str, Any]:
    """Parameters, tokens, steps, and what they would cost: time by two optimiser steps of the longest texts, and memory."""
    process = _process_bytes()  # before the data and the network are there
    made = plan(recipe, log)
    batches, denoiser = dataclasses.replace(made.batches, groups=[_longest(made)]), Denoiser(made.text_model)
    seconds = []
    for index in range(2 * batches.pieces):
        inputs = batches[index]
        began = time.perf_counter()
        with torch.autocast(inputs["x0"].device.type, dtype=torch.bfloat16, enabled=recipe.run.bf16):
            loss = denoiser(**inputs)
        loss.backward()
        seconds.append((time.perf_counter() - began) / inputs["x0"].numel())
        denoiser.zero_grad()
    # The weights and the averaged ones; of those that are trained, their gradients and two moments of the optimiser.
    network = 4 * (made.parameters * (2 if recipe.optimizer.ema else 1) + made.trained * 3)
    return {
        "parameters": made.parameters,
        "trained": made.trained,
        "vocabulary": vocabulary(made),
        "texts": made.texts,
        "validation_texts": sum(len(g.ids) for g in made.validation),
        "unknown_tokens": None if made.unknown is None else f"{made.unknown:.2%}",
        "steps": recipe.run.steps,
        "steps_per_epoch": made.batches.steps_per_epoch(),
        "tokens": made.tokens,
        "minutes": round(made.tokens * min(seconds) * 1.1 / 60, 1),
        "data_mb": round(_data_bytes(made) / 2**20),
        "process_mb": round(process / 2**20),
        "memory_mb": round((process + network + _step_bytes(recipe, made) + _data_bytes(made)) / 2**20),
        "out": str(recipe.folder),
    }


def _step_bytes(recipe: Recipe, made: Plan) -> int:
    """About what one piece of a step takes: its rows, and the activations of the network."""
    config = made.text_model.model.config
    rows = recipe.run.batch // made.batches.pieces * math.prod(_longest(made).ids.shape[1:])
    layers = getattr(config, "num_hidden_layers", 6)
    kept = layers + 34 if recipe.run.recompute else layers * 34  # hidden states for each token
    activations = getattr(config, "hidden_size", 512) * kept * 4
    return int(rows) * (int(activations) if made.unknown is not None else 8192) + 32 * recipe.run.batch


def _process_bytes() -> int:
    """What this process takes in memory now: Python with torch and transformers, once they are imported."""
    try:
        import resource
    except ImportError:  # Windows has no such figures
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not Linux: the most that it has taken so far, in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _data_bytes(made: Plan) -> int:
    """What stays in memory of the data: rows that are in no file, and the order in which an epoch shows the texts."""
    tables: list[Any] = [t for g in (*made.batches.groups, *made.validation) for t in (g.ids, g.condition)]
    rows = sum(t.untyped_storage().nbytes() for t in tables if isinstance(t, Tensor))
    return int(rows) + 4 * made.texts


def _data(text_model: Model, groups: list[Group]) -> str:
    """A hash of the vocabulary and of every row that is learnt from."""
    hashed = hashlib.sha256()
    tokens = text_model.vocabulary()
    if tokens:
        hashed.update(json.dumps(sorted(tokens.items())).encode())
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
