"""Numbers of canvases under a model: bounds on −log p, −log p in an order, and each character given the others.

nats_i(x) = −log q(x_i | all others),      q the mask process's prediction for one hole                              (1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.likelihood import nelbo
from textdiff.core.predictions import positions_of
from textdiff.core.rng import example_seed
from textdiff.networks.fast_float32 import fast_float32
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.options import at_least, whole
from textdiff.pipeline.page import condition, together
from textdiff.pipeline.run import Left
from textdiff.pipeline.score.order import Order
from textdiff.processes import PROCESSES
from textdiff.shaping.shared import shared

MERIT_LEVELS = 16  # of a candidate of best-of, and of a poem before and after its revision
Progress = Callable[[int], object]  # called with the number of texts done


def masking(model: TextModel) -> str | None:
    """The process of a model by which characters have a likelihood given the others; None where the model serves none."""
    return next((name for name in model.processes if PROCESSES[name].masks), None)


def bounds(
    model: TextModel,
    canvases: Sequence[Canvas],
    seeds: Sequence[Sequence[int]],
    process: str,
    levels: int | None,
    batch_size: int,
    callback: Progress | None = None,
    left: Left | None = None,
) -> Tensor:
    """The bound on −log p of each text under each of its seeds, nats, (texts, seeds) float64.

    `left(k)` is asked before every forward: where it says that nobody waits for text k any more, no more is spent on it, and its
    numbers mean nothing.
    """
    if not PROCESSES[process].bounded:
        raise AskedError(f"process {process!r} has no bound; pass a process that has one")
    if not PROCESSES[process].masks and any(c.hidden is not None for c in canvases):
        raise AskedError(
            f"process {process!r} cannot leave the rest of an octave unknown, and so has no bound of a couplet; "
            f"score it by the mask process"
        )
    predictor, forward = model.predictor(process), model.process(process)

    def of(rows: list[int]) -> Tensor:
        repeats = [canvases[row] for row in rows for _ in seeds[row]]
        owners = [row for row in rows for _ in seeds[row]]
        return nelbo(
            *_ids_and_free(model, repeats),
            predictor=predictor,
            process=forward,
            seeds=torch.tensor([s for row in rows for s in seeds[row]], device=model.device),
            levels=at_least("levels", levels, 1),
            condition=condition(model, repeats),
            rows=whole("batch_size", batch_size),
            gone=None if left is None else lambda: torch.tensor([left(row) for row in owners], device=model.device),
        ).view(len(rows), -1)

    return _in_batches(of, canvases, len(seeds[0]), batch_size, callback, left)


def ordered_nats(
    model: TextModel,
    canvases: Sequence[Canvas],
    seeds: Sequence[int],
    order: str,
    steps: int | None,
    batch_size: int,
    callback: Progress | None = None,
    left: Left | None = None,
) -> Tensor:
    """−log p of each text in an order, nats, (texts,) float64, by what the network predicts for the mask process.

    `left` is that of `bounds`, and is asked before every batch.
    """
    way, other = Order.parse(order), masking(model)
    if other is None:
        raise AskedError(f"model {model.name} does not serve the mask process, by which a text is written in an order")
    name = next((name for name in model.processes if PROCESSES[name].any_order), None)
    if name is None and (way.name != "left" or steps is not None):
        raise AskedError(f"model {model.name} writes from left to right, one position at a time; pass order 'left'")
    predictor = shared(model.predictor(name or other))
    at_least("steps", steps, 1)

    def of(rows: list[int]) -> Tensor:
        some = [canvases[row] for row in rows]
        told = condition(model, some)
        chosen = torch.tensor([seeds[row] for row in rows], device=model.device)
        ids, free = _ids_and_free(model, some)
        options: dict[str, Any] = {"predictor": predictor, "mask_id": model.mask_id, "steps": steps, "condition": told}
        return way.nats(ids, free, seeds=chosen, turn=some[0].turn, **options)[:, None]

    return _in_batches(of, canvases, 1, batch_size, callback, left)[:, 0]


def free_nats(
    model: TextModel,
    canvases: Sequence[Canvas],
    order: str | None,
    seed: int,
    batch_size: int,
    callback: Progress | None = None,
    left: Left | None = None,
) -> Tensor:
    """−log p(free tokens | those that stand) of each canvas, nats, (canvases,) float64.

    In an order, which by chance is the same for all canvases that have the same positions free; None: from left to right, by a
    network that was trained to write so in one pass.
    """
    name, seeds = model.processes[0], [example_seed(seed, 0)] * len(canvases)
    if masking(model) is None:
        raise AskedError(
            f"model {model.name} does not serve the mask process, by which parts of a text have a likelihood"
        )
    if order is None and model.writes_whole(name):
        return bounds(model, canvases, [[one] for one in seeds], name, None, batch_size, callback, left)[:, 0]
    return ordered_nats(model, canvases, seeds, order or "left", None, batch_size, callback, left)


def _ids_and_free(model: TextModel, canvases: Sequence[Canvas]) -> tuple[Tensor, Tensor]:
    ids, free = torch.stack([c.ids for c in canvases]), torch.stack([c.free for c in canvases])
    return ids.to(model.device), free.to(model.device)


def _in_batches(
    of: Callable[[list[int]], Tensor],
    canvases: Sequence[Canvas],
    width: int,
    batch_size: int,
    callback: Progress | None,
    left: Left | None,
) -> Tensor:
    """What `of` gives for canvases of one shape at a time, by their numbers: (texts, width) float64; 0 for those that `left`."""
    at_least("batch_size", batch_size, 1)
    result = torch.zeros(len(canvases), width, dtype=torch.float64)
    for alike in together([c.shape for c in canvases]):
        for rows in (alike[k : k + batch_size] for k in range(0, len(alike), batch_size)):
            if open_ := rows if left is None else [row for row in rows if not left(row)]:
                with torch.inference_mode(), fast_float32():
                    result[open_] = of(open_).cpu()
            if callback is not None:
                callback(len(rows))
    return result


def check_steps(steps: int | None) -> None:
    """AskedError where steps are named without an order."""
    if steps is not None:
        raise AskedError(f"steps is {steps}, which is for the likelihood of an order; pass one, such as 'confidence'")


def given_the_others(model: TextModel, x0: Tensor, at: Tensor, canvases: Sequence[Canvas]) -> Tensor:
    """log q at position at[k] of row k given the others, (n, V) float64; x0 (n, L), at (n,), a canvas for each row."""
    x0, name = x0.to(model.device), masking(model)
    assert name is not None, "a caller looks first whether the model serves one"
    hole = torch.zeros_like(x0, dtype=torch.bool).scatter(1, at[:, None].to(x0.device), True)
    x_t = torch.where(hole, model.mask_id, x0)
    with torch.inference_mode(), fast_float32():
        level = hole.double() / x0.shape[1]
        prefix = condition(model, canvases)
        logits = model.predictor(name)(Query(x_t, level, at=positions_of(hole), condition=prefix)).by_token().logits()
    log_q: Tensor = logits.double().log_softmax(-1).cpu()
    return log_q


def nats(
    model: TextModel, canvases: Sequence[Canvas], texts: Sequence[Tensor], shown: Sequence[Tensor], batch_size: int
) -> list[Tensor]:
    """(1) at the `shown` (L,) bool positions of ids (L,) in the place of each canvas's, (L,) float64 each."""
    results = [torch.zeros(len(ids), dtype=torch.float64) for ids in texts]
    for rows in together([(len(c.ids), c.slots) for c in canvases]):
        pairs = [(row, at) for row in rows for at in shown[row].nonzero()[:, 0].tolist()]
        for k in range(0, len(pairs), batch_size):
            some = pairs[k : k + batch_size]
            x0, at = torch.stack([texts[row] for row, _ in some]), torch.tensor([at for _, at in some])
            log_q = given_the_others(model, x0, at, [canvases[row] for row, _ in some])
            for (row, place), value in zip(some, (-log_q.gather(1, x0.gather(1, at[:, None])))[:, 0], strict=True):
                results[row][place] = value
    return results
