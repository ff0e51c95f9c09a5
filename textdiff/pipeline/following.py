"""A run of `Pipeline.generate` or `fill` as shots: which of its texts stand in a state, and how they read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from textdiff.core.contracts import State
from textdiff.pipeline import canvas
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.text import Forms, Pipeline
from textdiff.show.trace import Onlooker, shot

Casting = Callable[[State], list[tuple[int, Canvas]]]  # which text, and how it reads, stands in each row of a new batch


def following(
    casting: Casting, *onlookers: Onlooker | None, decode: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
) -> Callable[[State], None]:
    """A `callback` for generate and fill that hands every state on as a shot; `decode` is the process's."""
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
        texts = tuple(one.text(x) for (_, one), x in zip(cast, decode(state.x).cpu(), strict=True))
        taken = shot([row for row, _ in cast], texts, state.t.max().item(), state.forwards.tolist(), before)
        before = texts
        for look in watching:
            look(taken)

    return follow


def new_texts(
    pipe: Pipeline,
    form: str | None = None,
    *,
    length: int | None = None,
    acrostic: str | None = None,
    acrostic_end: str | None = None,
    acrostic_diagonal: str | None = None,
    template: str | None = None,
    script: str | None = None,
) -> Casting:
    """The rows of `generate`, numbered as they come; the keywords are those of its keywords that say what is written."""
    ends = {"first": acrostic, "last": acrostic_end, "diagonal": acrostic_diagonal}
    blank = pipe._blank(form, length, template, script, **ends)
    numbers = itertools.count()
    return lambda state: [(next(numbers), blank) for _ in range(len(state.x))]


def filled_texts(
    pipe: Pipeline, texts: Sequence[str], form: Forms = None, *, script: str | None = None, each: int = 1
) -> Casting:
    """The rows of `fill`, which come in any order: one is of the first text, not met yet, with what is given in it.

    Where a keyword was given beside the text, it is the one that agrees with most of the row.  `each` rows are candidates
    or particles of one text; those of text k are numbered from k · each.
    """
    canvases = [canvas.in_script(one, script) for one in pipe._canvases(canvas.holed, texts, form)]
    alike: dict[Any, list[int]] = {}  # the texts with the same given part
    for k, one in enumerate(canvases):
        alike.setdefault(_key(one.ids, one.free), []).append(k)
    met = dict.fromkeys(range(len(canvases)), 0)

    def find(given: torch.Tensor, free: torch.Tensor) -> tuple[int, Canvas]:
        open_ = [k for k in alike.get(_key(given, free), []) if met[k] < each]
        if not open_:
            open_ = sorted((k for k in met if met[k] < each), key=lambda k: -_agreement(canvases[k], given, free))
        met[open_[0]] += 1
        return open_[0] * each + met[open_[0]] - 1, canvases[open_[0]]

    return lambda state: [find(*row) for row in zip(state.given.cpu(), state.free.cpu(), strict=True)]


def _key(given: torch.Tensor, free: torch.Tensor) -> tuple[Any, ...]:
    return tuple(None if open_ else k for k, open_ in zip(given.tolist(), free.tolist(), strict=True))


def _agreement(one: Canvas, given: torch.Tensor, free: torch.Tensor) -> int:
    """Positions at which a canvas says what a row says; −1 if they differ in length."""
    same = len(one.ids) == len(given)
    return int(((one.free & free) | (~one.free & ~free & (one.ids == given))).sum()) if same else -1
