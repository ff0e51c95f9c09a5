"""Other versions of texts: part of a text is corrupted and drawn anew, from streams of the text's own seed.

    mask         some of the free tokens are masked and filled
    others       the text itself is corrupted to a level, and the chain walks down from there

What is corrupted is chosen by chance, or it is what a caller's `Try` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from textdiff.core.rng import Rng
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.page import Start
from textdiff.pipeline.plan import Plan
from textdiff.pipeline.run import run
from textdiff.processes import PROCESSES

FIRST = 4  # the stream of the first version, behind those of a revision's first round
TRIES = 4  # draws of a version that comes out like the text or another version
HOLES = 1 << 18  # the stream that holes are drawn from, where the process has an order


class Text(Protocol):
    """A text of which versions are drawn."""

    @property
    def given(self) -> Canvas:
        """What it is drawn on: free are the tokens that may become others."""

    @property
    def ids(self) -> Tensor:
        """(L,) the tokens of the text."""

    @property
    def seed(self) -> int:
        """The seed of all its versions."""

    @property
    def gone(self) -> Callable[[], bool]:
        """Whether nobody waits for its versions any more; once it says so, always."""


T = TypeVar("T", bound=Text)


def never() -> bool:
    """`gone` of a text that somebody waits for."""
    return False


@dataclass(frozen=True, eq=False)
class Try(Generic[T]):
    """A version to be drawn."""

    text: T
    stream: int
    count: int  # corrupted positions that the chain starts from
    x: Tensor | None  # (L,) the state it starts from; None: the process corrupts the text


@dataclass(frozen=True, eq=False)
class Version:
    """A version that was drawn."""

    ids: Tensor  # (L,)
    like: (
        int | None
    )  # the number, from 1, of the version of this text that is the same; 0: it is the text; None: no other is


def drawn(model: TextModel, tries: Sequence[Try[T]], plan: Plan, batch_size: int) -> list[Tensor]:
    """The version that each try ends at, (L,) ids each; of a text that nobody waits for it is the text."""
    results: dict[int, Tensor] = {}
    pages = [_begun(model, one, plan) for one in tries]
    seeds, streams = [one.text.seed for one in tries], [one.stream for one in tries]

    def left(k: int) -> bool:
        return tries[k].text.gone()

    for batch in run(model, plan, pages, seeds, batch_size=batch_size, streams=streams, left=left):
        *_, last = batch.states
        results.update(zip(batch.rows, last.x.cpu(), strict=True))
    return [one.text.ids if left(i) else _fitting(results[i], one.text) for i, one in enumerate(tries)]


def _fitting(x: Tensor, text: Text) -> Tensor:
    """x (L,) with the text's own tokens where those drawn are of another kind: under some samplers noise may stay."""
    if text.given.kinds is None:
        return x
    kind, fitting = text.given.kinds
    return torch.where(fitting[kind, x], x, text.ids)


def _begun(model: TextModel, one: Try[T], plan: Plan) -> Canvas:
    """What a try draws on: the text at a level, or in a fixed order a page whose holes are what is masked."""
    given, ids = one.text.given, one.text.ids
    if not PROCESSES[plan.process].ordered:
        return replace(given, start=Start(ids, one.count, one.x))
    x = one.x
    if x is None:
        rng = Rng([one.text.seed], stream=HOLES + one.stream)
        x = masked(ids, rng.subset(given.free[None], torch.tensor([one.count]))[0], model.mask_id)
    return replace(given, ids=x, free=given.free & (x == model.mask_id))


def masked(ids: Tensor, where: Tensor, mask_id: int) -> Tensor:
    """ids (L,) with the mask at `where` (L,) bool."""
    return torch.where(where, mask_id, ids)


def versions(
    model: TextModel,
    texts: Sequence[T],
    plan: Plan,
    n: int,
    share: float,
    batch_size: int,
    *,
    known: Sequence[Sequence[Tensor]],
    first: int = FIRST,
    tries: int = TRIES,
) -> list[list[Version]]:
    """n versions of each text, for which a `share` of its free tokens, one at least, is corrupted.

    A version that is like one of the `known` ids of its text, or like an earlier version, is drawn again, `tries` times in all.
    """
    results: dict[tuple[int, int], Version] = {}
    seen = [{tuple(ids.tolist()): 0 for ids in some} for some in known]
    open_ = [(i, v) for i in range(len(texts)) for v in range(n)]
    for attempt in range(tries):
        begun = []
        for i, v in open_:
            count = max(1, round(share * int(texts[i].given.free.sum())))
            begun.append(Try(texts[i], first + attempt * n + v, count, None))
        again = []
        for (i, v), ids in zip(open_, drawn(model, begun, plan, batch_size), strict=True):
            like = seen[i].setdefault(tuple(ids.tolist()), v + 1)
            results[i, v] = Version(ids, None if like == v + 1 else like)
            if like != v + 1 and not texts[i].gone():
                again.append((i, v))
        open_ = again
        if not open_:
            break
    return [[results[i, v] for v in range(n)] for i in range(len(texts))]
