"""What is drawn, as texts: outputs, frames of a run, and the choice among candidates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import State
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng, example_seed
from textdiff.networks.folder import TextModel
from textdiff.pipeline import canvas
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.options import at_least
from textdiff.pipeline.plan import Plan, check_call
from textdiff.pipeline.run import CHOICE, Batch, run, seeds_of, steps_made
from textdiff.pipeline.score import AHEAD, MERIT_LEVELS, bounds, masking, nats
from textdiff.pipeline.writable import check_canvas
from textdiff.verse.forms import FORMS, regulated, split_at_punctuation

SAID = ("form", "title", "dynasty")  # what a record may say of its text

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
    mended: tuple[tuple[int, int], ...]  # (line, character) that broke the prosody asked for, and were rewritten first
    rounds: int
    variation: int | None  # its number, from 1
    seed: int
    process: str
    sampler: str
    model: str


def outputs(
    model: TextModel,
    canvases: Sequence[Canvas],
    seeds: Sequence[int],
    plan: Plan,
    batch_size: int,
    callback: Callback | None = None,
    watch: Watch | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, Output]]:
    """The index and the output of each text, in the order in which they are done; `numbers` are theirs in a longer call."""
    for batch in run(model, plan, canvases, seeds, batch_size=batch_size):

        def look(state: State, batch: Batch = batch) -> None:
            if callback is not None:
                callback(state)
            if watch is not None:
                watch(frame(batch, state, numbers))

        state, steps = steps_made(batch.states, look)
        x = batch.scene.process.decode(state.x)
        seeds_here = [seeds[k] for k in batch.rows]
        rows, weights = chosen(model, replace(state, x=x), batch.blanks, seeds_here, plan)
        for k, row, weight in zip(batch.rows, rows.tolist(), weights.tolist(), strict=True):
            spent = int(state.forwards[row].item()) * plan.each
            yield k, _output(model, canvases[k], x[row].cpu(), seeds[k], plan, spent, int(steps[row]), weight)


def each(
    model: TextModel,
    records: Iterator[str | Mapping[str, Any]],
    plan: Plan,
    seed: int,
    skip: bool,
    batch_size: int,
    watch: Watch | None,
) -> Iterator[Output | AskedError]:
    """What `TextPipeline.each` gives, one window of records after the other."""
    at_least("batch_size", batch_size, 1)
    pages: dict[str | None, Canvas] = {}
    first = 0
    while window := list(itertools.islice(records, AHEAD * batch_size)):
        done: dict[int, Output | AskedError] = {}
        places: list[tuple[Canvas, int, int]] = []  # what is drawn, its seed, its number
        for k, record in enumerate(window, start=first):
            try:
                places.append((*_place(model, record, plan, seed + k, pages), k))
            except AskedError as error:
                done[k] = error
                if not skip:
                    break
        at = first
        for number, result in itertools.chain(_drawn(model, places, plan, batch_size, watch), [(-1, None)]):
            if result is not None:
                done[number] = result
            while at in done:
                following = done.pop(at)
                if isinstance(following, AskedError) and not skip:
                    raise following
                yield following
                at += 1
        first += len(window)


def _drawn(
    model: TextModel, places: Sequence[tuple[Canvas, int, int]], plan: Plan, batch_size: int, watch: Watch | None
) -> Iterator[tuple[int, Output | AskedError]]:
    """The number of each text, and its output or why it cannot be drawn."""
    canvases, seeds, numbers = ([place[i] for place in places] for i in range(3))
    left = dict(enumerate(places))
    try:
        for k, output in outputs(model, canvases, seeds, plan, batch_size, watch=watch, numbers=numbers):  # type: ignore[arg-type]
            del left[k]
            yield numbers[k], output  # type: ignore[misc]
    except AskedError as error:
        if len(places) == 1:
            yield places[0][2], error
        else:  # a text that cannot be drawn takes its batch with it: the others are drawn by themselves
            for place in left.values():
                yield from _drawn(model, [place], plan, batch_size, watch)


def _place(
    model: TextModel, record: str | Mapping[str, Any], plan: Plan, seed: int, pages: dict[str | None, Canvas]
) -> tuple[Canvas, int]:
    """What a record is drawn on, and its seed."""
    own: Mapping[str, Any] = {"text": record} if isinstance(record, str) else record
    said = {name: getattr(plan.options, name) for name in SAID}
    said = {name: own.get(name) if value is None else value for name, value in said.items()}
    for name, value in said.items():
        if value is not None and not isinstance(value, str):
            raise AskedError(f"{name} is {value!r}; it must be one word, for each record its own")
    form, text = said["form"], own.get("text")
    if text is not None:
        check_call(plan.options, model, "fill")
        one = canvas.read(canvas.holed, text, model, form)
    else:
        if form not in pages:
            pages[form] = canvas.open_page(model, replace(plan.options, form=form))
        one = pages[form]
    one = canvas.about(canvas.in_script(one, plan.options.script), model, said["title"], said["dynasty"])
    check_canvas(model, one, plan)
    (chosen_seed,) = seeds_of([seed if own.get("seed") is None else own["seed"]], None, None)
    return one, chosen_seed


def _output(
    model: TextModel, drawn: Canvas, ids: Tensor, seed: int, plan: Plan, forwards: int, steps: int, weight: float
) -> Output:
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
