"""A run of `Pipeline.generate` or `fill` as shots: which of its texts stand in a state, and how they read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from textdiff import canvas
from textdiff.canvas import Canvas
from textdiff.contracts import State
from textdiff.pipeline import Frame, Pipeline
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
        frame = Frame(texts, state.t.max().item(), tuple(state.forwards.tolist()))
        taken = shot([row for row, _ in cast], frame, before)
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
    """The batches of `fill`, whose rows may come in any order: a row is the first text, not met yet, that fits what is given.

    A row for which no text is left is numbered behind them all.
    """
    canvases: list[Canvas] = []
    left: dict[Any, list[int]] = {}
    more = itertools.count(len(texts))

    def casting(state: State) -> list[tuple[int, Canvas]]:
        if not canvases:
            for k, (text, form) in enumerate(zip(texts, forms, strict=True)):
                canvases.append(canvas.holed(text, pipe.model, None if form is None else get_form(form), verse=pipe.verse))
                left.setdefault(_key(canvases[k].ids, canvases[k].free), []).append(k)
        cast = []
        for given, free in zip(state.given.cpu(), state.free.cpu(), strict=True):
            queue = left.get(_key(given, free), [])
            if queue:
                row = queue.pop(0)
                cast.append((row, canvases[row]))
            else:
                cast.append((next(more), max(canvases, key=lambda one: _agreement(one, given, free))))
        return cast

    return casting


def _key(given: torch.Tensor, free: torch.Tensor) -> tuple[Any, ...]:
    return tuple(None if open_ else k for k, open_ in zip(given.tolist(), free.tolist(), strict=True))


def _agreement(one: Canvas, given: torch.Tensor, free: torch.Tensor) -> int:
    """Positions at which a canvas says what a row says; −1 if they differ in length."""
    same = len(one.ids) == len(given)
    return int(((one.free & free) | (~one.free & ~free & (one.ids == given))).sum()) if same else -1
