"""What is drawn, as texts: outputs, frames of a run, and the choice among candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textdiff.core.contracts import State
from textdiff.core.rng import Rng, example_seed
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.plan import Plan
from textdiff.pipeline.run import CHOICE, Batch
from textdiff.pipeline.score.likelihood import MERIT_LEVELS, bounds, masking, nats
from textdiff.verse.forms import FORMS, regulated, split_at_punctuation

Callback = Callable[[State], object]


@dataclass(frozen=True)
class Output:
    """A text that was drawn; its fields are the keys of a JSON line."""

    text: str
    lines: tuple[str, ...]  # of a poem without punctuation
    form: str | None
    seed: int
    sampler: str
    process: str
    steps: int  # that were made
    temperature: float
    top_p: float | None
    forwards: int  # predictor evaluations, all candidates and particles together
    log_weight: float | None  # of the chain under strict prosody, where particles were asked for
    title: str | None
    dynasty: str | None
    model: str


@dataclass(frozen=True)
class Frame:
    """Some of a call's texts between two steps."""

    texts: tuple[str, ...]  # □ where nothing stands yet
    level: float  # share of the free positions that is still corrupted, the highest of these texts
    forwards: tuple[int, ...]
    rows: tuple[
        int, ...
    ] = ()  # text k of the call is row k; with c candidates or particles its rows are k·c … k·c + c − 1


Watch = Callable[[Frame], object]


@dataclass(frozen=True)
class Change:
    """One character of a poem that was rewritten, lines and characters counted from 1."""

    line: int
    character: int
    old: str
    new: str


@dataclass(frozen=True)
class Refined:
    """A poem before and after; its fields are the keys of a JSON line."""

    before: str
    after: str
    form: str
    score_before: float  # nats of a character given all the others, the mean over the poem
    score_after: float
    bound_before: float  # the mask process's bound on −log p, nats a character, of the same few corruptions
    bound_after: float
    changed: tuple[Change, ...]
    mended: tuple[tuple[int, int], ...]  # (line, character) that broke the strict prosody, and were rewritten first
    rounds: int
    variation: int | None  # its number, from 1
    seed: int
    process: str
    sampler: str
    model: str


def output(
    model: TextModel, drawn: Canvas, ids: Tensor, seed: int, plan: Plan, forwards: int, steps: int, weight: float
) -> Output:
    """The output of a text that is drawn with ids (L,) in `forwards` evaluations and `steps` steps."""
    text = drawn.text(ids)
    return Output(
        text=text,
        lines=tuple(split_at_punctuation(text) if drawn.poem else text.splitlines()),
        form=drawn.form.name if drawn.form else None,
        seed=seed,
        sampler=plan.sampler,
        process=plan.process,
        steps=steps,
        temperature=plan.temperature,
        top_p=plan.top_p,
        forwards=forwards,
        log_weight=weight if plan.particles is not None else None,
        title=drawn.title,
        dynasty=drawn.dynasty,
        model=model.name,
    )


def chosen(
    model: TextModel, state: State, canvases: Sequence[Canvas], seeds: Sequence[int], plan: Plan
) -> tuple[Tensor, Tensor]:
    """The row that is given for each of a batch's texts, (texts,), and its log-weight: a particle by its weight, then the best
    candidate."""
    particles = plan.particles or 1
    weights = state.log_weight.view(-1, particles)  # (texts · candidates, particles)
    row = torch.arange(len(weights), device=weights.device) * particles
    if particles > 1:
        rng = Rng([seed for seed in seeds for _ in range(plan.best_of)], stream=CHOICE, device=weights.device)
        row = row + rng.categorical(weights)
    mean = weights.logsumexp(-1) - math.log(particles)
    if plan.best_of == 1:
        return row, mean
    rank = merit(model, canvases[::particles], state.x[row], plan.process)
    best = rank.view(-1, plan.best_of).argmin(-1).to(row.device)
    pick = torch.arange(len(best), device=best.device) * plan.best_of + best
    return row[pick], mean[pick]


def merit(model: TextModel, canvases: Sequence[Canvas], x: Tensor, process: str, batch_size: int = 64) -> Tensor:
    """What candidates x (n, L), a canvas each, are ranked by, least first, (n,) float64.

    Broken prosody counts most; then the bound and the mean of (1), nats a character each.
    """
    name = masking(model) or process
    whole = [replace(c, ids=ids, hidden=None, start=None) for c, ids in zip(canvases, x.cpu(), strict=True)]
    rank = bounds(model, whole, [[example_seed(0, 0)]] * len(whole), name, MERIT_LEVELS, batch_size)[:, 0]
    rank = rank / torch.tensor([max(1, c.shape[1]) for c in whole])
    for k, one in enumerate(canvases):
        if one.form in FORMS.values() and not regulated(one.form.split(one.read(x[k].cpu()))):  # type: ignore[union-attr]
            rank[k] += 100
    if masking(model) is not None:
        free = [c.free for c in whole]
        alone = nats(model, whole, [c.ids for c in whole], free, batch_size)
        rank += torch.stack([one.sum() / max(1, int(where.sum())) for one, where in zip(alone, free, strict=True)])
    return rank


def frame(batch: Batch, state: State, numbers: Sequence[int] | None = None) -> Frame:
    """A state as texts; `numbers` are those of the run's texts in a longer call."""
    x = batch.scene.process.decode(state.x).cpu()
    texts = tuple(one.text(ids) for one, ids in zip(batch.blanks, x, strict=True))
    rows = [k if numbers is None else numbers[k] for k in batch.rows]
    every = tuple(row * batch.each + j for row in rows for j in range(batch.each))
    return Frame(texts, state.t.max().item(), tuple(state.forwards.tolist()), every)
