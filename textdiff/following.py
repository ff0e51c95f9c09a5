"""A run of `Pipeline.generate` or `fill` as shots: which of its texts stand in a state, and how they read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from textdiff import canvas
from textdiff.canvas import Canvas
from textdiff.contracts import State
from textdiff.pipeline import Pipeline
from textdiff.trace import Onlooker, shot
from textdiff.verse import get_form

Casting = Callable[[State], list[tuple[int, Canvas]]]  # which text, and how it reads, stands in each row of a new batch


def following(casting: Casting, *onlookers: Onlooker | None) -> Callable[[State], None]:
    """A `callback` for generate and fill that hands every state on as a shot."""
    watching = [look for look in onlookers if look is not None]
    given: torch.Tensor | None = None
    cast: list[tuple[int, Canvas]] = []
    before: Sequence[str] = ()

    def follow(state: State) -> None:
        nonlocal given, cast, before
        if not watching:
            return
        if given is None or (state.given is not given and not state.forwards.any()):  # a batch begins
            cast, before = casting(state), ()
        given = state.given
        texts = tuple(one.text(x) for (_, one), x in zip(cast, state.x.cpu(), strict=True))
        taken = shot([row for row, _ in cast], texts, state.t.max().item(), state.forwards.tolist(), before)
        before = texts
        for look in watching:
            look(taken)

    return follow


def new_texts(pipe: Pipeline, form: str | None = None) -> Casting:
    """The batches of `generate`: rows are numbered as they come."""
    numbers = itertools.count()

    def casting(state: State) -> list[tuple[int, Canvas]]:
        rows, length = state.x.shape
        if pipe.verse or form is not None:
            named = pipe.model.defaults.get("form", "qiyan-jueju") if form is None else form
            blank = canvas.blank(pipe.model, get_form(named))
        else:
            blank = canvas.window(pipe.model, length)
        return [(next(numbers), blank) for _ in range(rows)]

    return casting


def filled_texts(pipe: Pipeline, texts: Sequence[str], forms: Sequence[str | None]) -> Casting:
    """The batches of `fill`, whose rows may come in any order: a row is the first text, not met yet, with what is given in it.

    Where more was given to the pipeline, it is the text that agrees with most of it.  A row for which no text is left is
    numbered behind them all.
    """
    canvases: list[Canvas] = []
    alike: dict[Any, list[int]] = {}  # the texts with the same given part
    left: set[int] = set()
    more = itertools.count(len(texts))

    def start() -> None:
        for k, (text, form) in enumerate(zip(texts, forms, strict=True)):
            named = None if form is None else get_form(form)
            canvases.append(canvas.holed(text, pipe.model, named, verse=pipe.verse))
            alike.setdefault(_key(canvases[k].ids, canvases[k].free), []).append(k)
            left.add(k)

    def find(given: torch.Tensor, free: torch.Tensor) -> tuple[int, Canvas]:
        same = alike.get(_key(given, free), [])
        row = next((k for k in same if k in left), None)
        if row is None and not same and left:
            row = max(sorted(left), key=lambda k: _agreement(canvases[k], given, free))
        if row is None:
            among = [canvases[k] for k in same] or canvases
            return next(more), max(among, key=lambda one: _agreement(one, given, free))
        left.remove(row)
        return row, canvases[row]

    def casting(state: State) -> list[tuple[int, Canvas]]:
        if not canvases:
            start()
        return [find(*row) for row in zip(state.given.cpu(), state.free.cpu(), strict=True)]

    return casting


def _key(given: torch.Tensor, free: torch.Tensor) -> tuple[Any, ...]:
    return tuple(None if open_ else k for k, open_ in zip(given.tolist(), free.tolist(), strict=True))


def _agreement(one: Canvas, given: torch.Tensor, free: torch.Tensor) -> int:
    """Positions at which a canvas says what a row says; −1 if they differ in length."""
    same = len(one.ids) == len(given)
    return int(((one.free & free) | (~one.free & ~free & (one.ids == given))).sum()) if same else -1
